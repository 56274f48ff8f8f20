"""What a trial may do, as plain data; needs no torch."""
