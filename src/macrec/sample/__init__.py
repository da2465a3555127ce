"""The sample catalogue with known labels, and its encoders."""
