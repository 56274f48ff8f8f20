"""The approximations, one folder each. A folder added here is registered by itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from axsearch import discovery
from axsearch.approximations.base import Approximation, TopK, UnitRemoval
from axsearch.approximations.choices import Level
from axsearch.approximations.site import OUTSIDE, SiteKind, layer_of

__all__ = [
    "Approximation",
    "Level",
    "TopK",
    "UnitRemoval",
    "approximations",
    "choice_types",
    "in_cell",
    "is_removed",
    "named",
    "recorded",
    "removal",
    "together",
]


@functools.cache
def _made(member: type[Approximation]) -> Approximation:
    return member()  # one object for a class, also where the registry is read again


@functools.cache
def approximations() -> Mapping[str, Approximation]:
    """Every approximation by the name that a genome gives it, in alphabetical order."""
    found: list[Approximation] = [
        _made(member)
        for module in discovery.halves(sys.modules[__name__], "choice")
        for member in discovery.members(module, Approximation)  # type: ignore[type-abstract]
    ]
    return MappingProxyType({a.name: a for a in sorted(found, key=lambda a: a.name)})


@functools.cache
def recorded(kind: SiteKind) -> Mapping[str, Approximation]:
    """The approximations whose choices a recipe holds under their own name at such a site."""
    found = approximations().items()
    return MappingProxyType(
        {name: a for name, a in found if kind in a.kinds and a.recorded(kind) == name}
    )


@functools.cache
def choice_types() -> tuple[str, ...]:
    """The types of choices that a recipe may hold, in alphabetical order."""
    return tuple(n for n, a in approximations().items() if a.name in map(a.recorded, a.kinds))


def named(names: Iterable[str]) -> list[Approximation]:
    """The approximations of these names, those that remove units first. Names of no known
    approximation, such as those of another version, are left out.
    """
    found = [approximations()[name] for name in names if name in approximations()]
    return sorted(found, key=lambda one: not isinstance(one, UnitRemoval))


def is_removed(kept: Mapping[str, Level]) -> bool:
    """Whether a layer is removed as a whole: none of its blocks keeps a unit.

    Args:
        kept: what the layer keeps, by the names of approximations.
    """
    left = [kept[one.name] for one in named(kept) if isinstance(one, UnitRemoval)]
    return bool(left) and all(units == 0 for units in left)


def in_cell(name: str, place: str, choices: Mapping[str, Mapping[str, Level]]) -> str:
    """What a table's cell says of an approximation at a place: 'all' where it is exact.

    Args:
        name: of the approximation.
        place: ``layer03``, or a site outside of layers.
        choices: those of a model, place by place, with the same names for all.

    Returns:
        Nothing where the approximation does not work at such a place.
    """
    outside = {other for other in choices if layer_of(other) == OUTSIDE}
    kinds = approximations()[name].kinds if name in approximations() else ()
    there = place in kinds if place in outside else not kinds or not outside.issuperset(kinds)
    level = choices[place].get(name)
    return ("all" if level is None else str(level)) if there else ""


def together(first: Level, second: Level) -> Level:
    """The level of one type of choice at two sites of a layer: the more approximate one."""
    levels = [level for level in (first, second) if level is not None]
    return min(levels, default=None)


def removal(kind: SiteKind) -> UnitRemoval | None:
    """The approximation under whose name a recipe says which units of such a site stay."""
    found = recorded(kind).values()
    return next((one for one in found if isinstance(one, UnitRemoval)), None)
