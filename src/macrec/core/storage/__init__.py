"""Storage backends: local folders and Google Cloud Storage."""
