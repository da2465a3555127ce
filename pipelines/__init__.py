"""The pipelines and the code that runs them: locally, on a cluster, in a bench, from the CLI."""
