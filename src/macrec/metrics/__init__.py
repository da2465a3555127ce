"""Ranking metrics, predictions and significance."""
