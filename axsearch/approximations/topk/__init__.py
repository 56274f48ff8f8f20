"""Top-k attention: each query attends to its k best keys."""
