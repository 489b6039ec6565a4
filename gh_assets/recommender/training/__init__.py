"""Training, comparing and tuning models on a user-item matrix."""
