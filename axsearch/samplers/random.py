"""Uniform random genomes."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler


def build(seed: int) -> BaseSampler:
    """The floor that every other sampler is compared with."""
    return RandomSampler(seed=seed)
