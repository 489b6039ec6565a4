"""Metrics and evaluation on held-out users."""
