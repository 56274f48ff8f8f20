"""The approximations, one file each; a file in this folder is found by being there."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import MappingProxyType

from axsearch import discovery
from axsearch.approximations.base import Approximation, Axis, Level, Site, UnitRemoval, Units

__all__ = ["Approximation", "Axis", "Level", "Site", "UnitRemoval", "Units", "approximations"]


@functools.cache
def approximations() -> Mapping[str, Approximation]:
    """Every approximation by name, in alphabetical order of the names."""
    found: list[Approximation] = [
        member()
        for member in discovery.classes(sys.modules[__name__], Approximation)  # type: ignore[type-abstract]
    ]
    return MappingProxyType({a.name: a for a in sorted(found, key=lambda a: a.name)})
