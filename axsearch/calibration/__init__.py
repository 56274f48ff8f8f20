"""Tables measured once before a search."""
