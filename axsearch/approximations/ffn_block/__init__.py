"""Whole FFN blocks."""
