"""NSGA-III."""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIIISampler


def build(seed: int) -> BaseSampler:
    """Optuna's default population; the warm start is evaluated but does not breed."""
    return NSGAIIISampler(seed=seed)
