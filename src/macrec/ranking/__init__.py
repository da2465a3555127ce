"""Ranked lists: candidates from the generator and from item neighbours, and their fusion."""
