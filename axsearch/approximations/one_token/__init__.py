"""One token in the last layer: the one that the model's head reads."""
