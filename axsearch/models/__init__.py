"""How a base gets smaller: surgery, refit and the model families."""
