"""Pseudo-labels: which items are alike in text, and which in their picture."""
