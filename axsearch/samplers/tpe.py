"""The tree-structured Parzen estimator."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler


def build(seed: int) -> BaseSampler:
    """Multivariate, so that layers are weighed together."""
    return TPESampler(seed=seed, multivariate=True)
