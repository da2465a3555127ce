"""Unique codes: the semantic IDs of the items."""
