"""Whole attention blocks."""
