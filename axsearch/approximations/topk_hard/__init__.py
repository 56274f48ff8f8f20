"""Selective hard attention: top-k without renormalisation."""
