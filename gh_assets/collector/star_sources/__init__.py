"""Where stars come from, one source a file."""
