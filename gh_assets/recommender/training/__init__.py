"""Training, checkpoints and the search for hyperparameters."""
