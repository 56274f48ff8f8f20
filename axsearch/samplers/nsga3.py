"""NSGA-III."""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIIISampler

from axsearch.samplers.base import PerTrial, Sampler
from axsearch.space.problem import Problem


def build(problem: Problem, seed: int) -> BaseSampler:
    """Optuna's default population; the warm start is evaluated but does not breed."""
    return PerTrial(lambda seed: NSGAIIISampler(seed=seed), seed)


SAMPLER = Sampler(build)
