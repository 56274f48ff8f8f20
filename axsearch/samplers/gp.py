"""Gaussian processes."""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler

from axsearch.samplers.base import PerTrial, Sampler
from axsearch.space.problem import Problem


def build(problem: Problem, seed: int) -> BaseSampler:
    """Deterministic objective: an evaluated recipe is never evaluated again."""
    return PerTrial(lambda seed: GPSampler(seed=seed, deterministic_objective=True), seed)


SAMPLER = Sampler(build)
