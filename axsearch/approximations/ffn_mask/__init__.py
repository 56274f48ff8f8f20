"""Groups of FFN neurons, each a parameter of the genome."""
