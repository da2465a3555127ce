"""Picture vectors of the items."""
