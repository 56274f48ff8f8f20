"""Numeric kernels, and how transformers models reach them."""
