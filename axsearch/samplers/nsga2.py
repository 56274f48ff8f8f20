"""NSGA-II."""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIISampler


def build(seed: int) -> BaseSampler:
    """Optuna's default population; the warm start is evaluated but does not breed."""
    return NSGAIISampler(seed=seed)
