"""The DAG, the local runner of its compiled form and the `macrec` command."""
