"""The pipelines, and what runs them: here, on a cluster, in comparisons, by the command line."""
