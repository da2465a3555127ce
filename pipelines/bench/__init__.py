"""The bench: compares systems on one data set with the same protocol."""
