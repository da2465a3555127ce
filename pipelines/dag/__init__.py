"""The pipelines as Kubeflow Pipelines sees them: DAG, run form, compilation, policy."""
