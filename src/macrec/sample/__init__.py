"""The sample catalogue with a known answer, and its encoders."""
