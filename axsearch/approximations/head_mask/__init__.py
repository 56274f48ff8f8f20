"""Single attention heads, each a parameter of the genome."""
