"""Dagster's storage, run launcher, executors and Celery application, and all use of Dagster's internals."""
