"""Run a study: search, workers, the trial loop, remeasuring."""
