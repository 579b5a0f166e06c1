"""What changes a training on purpose, and says so."""
