"""Contains one folder per stage: `spec.py` declares the stage, `stage.py` runs it."""
