"""The pipelines as Kubeflow Pipelines definitions: DAG, run form, compilation, policy checks."""
