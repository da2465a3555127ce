"""Stage embed_histories: computes item vectors from co-occurrence in the users' histories."""
