"""Stage check_run: checks the whole run form and takes a digest of all external data."""
