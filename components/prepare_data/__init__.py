"""Reads the shop's catalogue and log, checks both, and writes items and sequences."""
