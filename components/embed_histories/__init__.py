"""History embeddings: which items stand near each other in the users' histories."""
