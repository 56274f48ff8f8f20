"""Uniform random genomes."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from axsearch.samplers.base import PerTrial, Sampler
from axsearch.space.problem import Problem


def build(problem: Problem, seed: int) -> BaseSampler:
    """The floor that every other sampler is compared with."""
    return PerTrial(lambda seed: RandomSampler(seed=seed), seed)


SAMPLER = Sampler(build)
