"""Closed-form compensation: what is left makes up for what is removed."""
