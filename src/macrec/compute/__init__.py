"""Where and how a stage computes: devices, precision, shards."""
