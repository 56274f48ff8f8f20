"""Tasks: data files, splits, and the kinds of task."""
