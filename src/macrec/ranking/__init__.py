"""Ranked lists: candidates of the generator and of neighbours, and their fusion."""
