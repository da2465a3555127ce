"""Stage snapshot_catalog: computes digests of the external data, so that new data is detected."""
