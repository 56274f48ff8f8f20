"""Reading a study and choosing from it; needs no torch."""
