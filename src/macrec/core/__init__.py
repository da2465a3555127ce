"""Infrastructure that computes no results: stages, artifacts, the store, checkpoints, errors.

This package is not part of any fingerprint, so a change here keeps finished results valid.
"""
