"""Attention heads: removed from the projections."""
