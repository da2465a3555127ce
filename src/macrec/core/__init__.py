"""What moves bytes and computes nothing: stages, artifacts, the store, checkpoints, errors.

No part of a fingerprint: a change here leaves finished work valid.
"""
