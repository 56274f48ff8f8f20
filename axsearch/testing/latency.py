"""Latency tables that do not depend on a clock: those of tiny models are mostly noise."""

from __future__ import annotations

import math

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import ATTENTION, OUTSIDE
from axsearch.calibration.block_timing import shapes
from axsearch.models.base_model import Base
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable

MEASURE = "axsearch.calibration.preparation.measure_latency_table"
"""What :func:`table_by_units` stands in for, as a name that pytest's ``monkeypatch`` takes."""


def table_by_units(base: Base, space: SearchSpace, *_: object, **__: object) -> LatencyTable:
    """Time in proportion to heads and neurons: 0.3 for attention, 0.6 for FFNs, 0.1 for the rest.

    Settings save nothing, choices of other types a tenth.

    What it is called with is what :func:`measure_latency_table` is called with.
    """
    layers = {site.layer for site in base.sites if site.layer != OUTSIDE}
    blocks = {}
    for site in base.sites:
        if site.layer == OUTSIDE:
            continue
        exact = (0.3 if site.kind == ATTENTION else 0.6) / len(layers)
        blocks[site.kind] = exact
        for key, choices in shapes(space, site).items():
            blocks[key] = exact * math.prod(map(_share, choices.values()))
    return LatencyTable(0.1, blocks, dict.fromkeys(layers, 1), error=0.02)


def _share(choice: Choice) -> float:
    if isinstance(choice, Kept):
        return len(choice.kept) / choice.of
    return 1.0 if isinstance(choice, Setting) else 0.9
