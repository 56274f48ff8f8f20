"""Optuna Dashboard: what axsearch adds to it, and serving it."""
