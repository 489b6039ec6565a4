"""Dagster's storage, run launcher, executors and Celery application. All use of Dagster's internals."""
