"""Stage evaluate: ranks the catalogue for every test user and reports metrics."""
