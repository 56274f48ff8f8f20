"""The samplers that a search can use, one file each, registered by themselves.

A module here with a ``SAMPLER`` (:class:`axsearch.samplers.base.Sampler`) is a sampler, under the
module's name.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import MappingProxyType

from optuna.samplers import BaseSampler

from axsearch import discovery
from axsearch.errors import UsageError
from axsearch.samplers.base import Sampler
from axsearch.space.problem import Problem


@functools.cache
def samplers() -> Mapping[str, Sampler]:
    """Every sampler by name, in alphabetical order."""
    package = sys.modules[__name__]
    return MappingProxyType(
        {
            module.__name__.rpartition(".")[2]: module.SAMPLER
            for module in discovery.modules(package)
            if hasattr(module, "SAMPLER")
        }
    )


def sampler_named(name: str) -> Sampler:
    """The sampler of this name; raises UsageError where there is none."""
    if name not in samplers():
        raise UsageError(
            f"Sampler {name!r} is not in this version; choose {', '.join(samplers())}."
        )
    return samplers()[name]


def build_sampler(name: str, problem: Problem, seed: int) -> BaseSampler:
    """Make Optuna's sampler of this name; raises UsageError where there is none."""
    return sampler_named(name).build(problem, seed)
