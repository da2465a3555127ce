"""Trains the generative recommender on sequences and semantic IDs."""
