"""User-item matrices, their splits, and file errors."""
