"""Text vectors of the items."""
