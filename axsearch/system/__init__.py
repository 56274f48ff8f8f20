"""This process and machine: cores, memory, caches, signals."""
