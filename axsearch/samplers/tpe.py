"""The tree-structured Parzen estimator."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from axsearch.samplers.base import PerTrial, Sampler
from axsearch.space.problem import Problem


def build(problem: Problem, seed: int) -> BaseSampler:
    """Multivariate, so that layers are weighed together."""
    return PerTrial(lambda seed: TPESampler(seed=seed, multivariate=True), seed)


SAMPLER = Sampler(build)
