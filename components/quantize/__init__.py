"""The cross-modal quantizer: from the embeddings of an item to its text and image codes."""
