"""Runs on this machine: the executor of a compiled pipeline, containers, images, clearing up."""
