"""Semantic IDs: the quantizer, collisions, IDs across versions, measures."""
