"""Optuna Dashboard: the notes and figures that axsearch adds, and the server."""
