"""Accuracy, latency and size of a model, and the Evaluator that joins and stores them."""
