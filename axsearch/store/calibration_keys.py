"""The names under which the store keeps calibration tables, see ``ax_calibrations``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from axsearch.approximations import approximations
from axsearch.approximations.choices import Subset

NO_SPLIT = "none"
"""In place of a split's fingerprint."""


def token_kind(space: str) -> str:
    """Of a :class:`axsearch.approximations.site.TokenUse`, by the fingerprint of a space."""
    return f"tokens {space}"


def size_kind(precision: str = "float32") -> str:
    """Of a :class:`axsearch.space.size_table.SizeTable`, which needs no split.

    In int8 numbers take other bytes; in all other precisions the file is the same.

    It also says what approximations save that cut tensors but keep neither units nor rows, so it
    depends on which of these there are.
    """
    others = [
        name
        for name, one in approximations().items()
        if one.cuts and not issubclass(one.choice_type, Subset)
    ]
    own = " int8" if precision == "int8" else ""
    if not others:
        return f"size{own}"
    return f"size{own} {hashlib.sha256(' '.join(others).encode()).hexdigest()[:16]}"


LATENCY_TABLES = 2
"""How latency tables are measured; those of version 0.1, the first way, could be wrong."""


def latency_kind(
    machine: str, levels: Mapping[str, Sequence[int | None]], measured: int = LATENCY_TABLES
) -> str:
    """Of the latency table of a machine, for all levels that a search is to try.

    ``measured`` is the way in which it was, see :data:`LATENCY_TABLES`.
    """
    untimed = {name for name, one in approximations().items() if not one.timed}
    asked = [
        (name, list(values))
        for name, values in sorted(levels.items())
        if not untimed & {*name.split(".")}
    ]
    shapes = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
    way = "" if measured == 1 else f" {measured}"
    return f"latency {hashlib.sha256(f'{machine} {shapes}{way}'.encode()).hexdigest()[:16]}"


def importance_kind(compensation: str) -> str:
    """Of the importance of units, scored with this compensation."""
    return f"importance {compensation}"


def damage_kind(space: str) -> str:
    """Of the damage of the choices of a space with this fingerprint."""
    return f"damage {space[:16]}"


def trivial_kind(metric: str) -> str:
    """Of the accuracy of a constant prediction."""
    return f"trivial {metric}"


def baselines_kind(machine: str) -> str:
    """Of the base in each precision of a runtime, timed on a machine."""
    return f"baselines {hashlib.sha256(machine.encode()).hexdigest()[:16]}"


def both_splits(calibration: str, search: str) -> str:
    """In place of a split's fingerprint, for tables that depend on two splits."""
    return hashlib.sha256(f"{calibration} {search}".encode()).hexdigest()
