"""FFN neurons: removed from the projections."""
