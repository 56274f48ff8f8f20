"""The samplers that ``--sampler`` names, one file each, found by being there.

A module here has a function ``build(seed)`` that returns an Optuna sampler.
"""

from __future__ import annotations

import sys

from optuna.samplers import BaseSampler

from axsearch import discovery
from axsearch.errors import UsageError


def sampler_names() -> tuple[str, ...]:
    """Every sampler there is."""
    package = sys.modules[__name__]
    return tuple(module.__name__.rpartition(".")[2] for module in discovery.modules(package))


def build_sampler(name: str, seed: int) -> BaseSampler:
    """Make the sampler of this name; raises UsageError for one that is not there."""
    for module in discovery.modules(sys.modules[__name__]):
        if module.__name__.rpartition(".")[2] == name:
            sampler: BaseSampler = module.build(seed)
            return sampler
    raise UsageError(
        f"Sampler {name!r} is not in this version; choose {', '.join(sampler_names())}."
    )
