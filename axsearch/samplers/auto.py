"""The default."""

from __future__ import annotations

from optuna.samplers import BaseSampler

from axsearch.samplers import tpe


def build(seed: int) -> BaseSampler:
    """TPE, after the ladder that every study starts with."""
    return tpe.build(seed)
