"""The approximations, one file each; a file in this folder is found by being there."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import MappingProxyType

from axsearch import discovery
from axsearch.approximations.base import Approximation, Level, TopK, UnitRemoval
from axsearch.approximations.site import SiteKind

__all__ = [
    "Approximation",
    "Level",
    "TopK",
    "UnitRemoval",
    "approximations",
    "recorded",
]


@functools.cache
def approximations() -> Mapping[str, Approximation]:
    """Every approximation by the name that a genome gives it, in alphabetical order."""
    found: list[Approximation] = [
        member()
        for member in discovery.classes(sys.modules[__name__], Approximation)  # type: ignore[type-abstract]
    ]
    return MappingProxyType({a.name: a for a in sorted(found, key=lambda a: a.name)})


@functools.cache
def recorded(kind: SiteKind) -> Mapping[str, Approximation]:
    """The approximations whose choices a recipe holds under their own name at such a site."""
    found = approximations().items()
    return MappingProxyType(
        {name: a for name, a in found if kind in a.kinds and a.recorded(kind) == name}
    )
