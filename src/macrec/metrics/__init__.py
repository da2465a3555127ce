"""Ranking metrics, predictions and statistical significance."""
