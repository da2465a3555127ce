"""Runs on a Kubeflow Pipelines backend: submission, schedules, status, reruns."""
