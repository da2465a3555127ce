"""Stage train: trains the generative recommender on sequences and semantic IDs."""
