"""Figures, explanations, the report and the dashboard."""
