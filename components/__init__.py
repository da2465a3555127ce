"""One folder per node of the DAG: `main.py` is the stage, `component.py` its KFP component."""
