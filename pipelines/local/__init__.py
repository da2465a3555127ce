"""Local runs: the executor of a compiled pipeline, containers, images, and garbage collection."""
