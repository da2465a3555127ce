"""Semantic IDs of new and changed items, with the quantizer as it is."""
