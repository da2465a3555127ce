"""Stage embed_text: computes the text vectors of the items."""
