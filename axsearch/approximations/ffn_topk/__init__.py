"""Top-k FFN: each token uses its k strongest neurons."""
