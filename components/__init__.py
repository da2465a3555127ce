"""One folder per stage: `spec.py` declares it, `stage.py` computes it; `stages.py` lists them."""
