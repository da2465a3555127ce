"""Runs on a Kubeflow Pipelines backend: submission, schedules, status and reruns."""
