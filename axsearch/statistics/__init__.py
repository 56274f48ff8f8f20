"""Metrics, intervals, Pareto fronts and measurements."""
