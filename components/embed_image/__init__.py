"""Stage embed_image: computes the image vectors of the items."""
