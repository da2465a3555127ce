"""Stage prepare_data: validates the catalogue and the log, and writes items and sequences."""
