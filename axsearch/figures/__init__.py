"""Plotly figures, one file each: every figure is a function of plain data."""
