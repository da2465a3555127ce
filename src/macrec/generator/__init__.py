"""The generative model: tokens, T5, the trie of legal codes, decoding."""
