"""A model as a graph of operators, for the runtimes that run graphs and the exports for them."""
