"""Latency tables that do not depend on a clock: those of tiny models are mostly noise."""

from __future__ import annotations

import math
from dataclasses import replace

from axsearch.approximations import removal
from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import ATTENTION, OUTSIDE
from axsearch.calibration.timed_models import shapes
from axsearch.models.base_model import Base
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable

MEASURE = "axsearch.calibration.preparation.measure_latency_table"
"""The function that :func:`table_by_units` replaces, as a name for pytest's ``monkeypatch``."""


def table_by_units(base: Base, space: SearchSpace, *_: object, **__: object) -> LatencyTable:
    """Time in proportion to heads and neurons: 0.3 for attention, 0.6 for FFNs, 0.1 for the rest.

    Settings save nothing, choices of other types a tenth of their block, and those at a site
    without units 0.01; what narrows the last layer saves nothing, so a search leaves it out. It
    takes the arguments of :func:`measure_latency_table`.
    """
    layers = {site.layer for site in base.sites if site.layer != OUTSIDE}
    blocks = {}
    for site in base.sites:
        exact = (0.3 if site.kind == ATTENTION else 0.6) / len(layers)
        if base.sites[site].units is None:
            exact = 0.0
        blocks[site.kind] = exact
        for key, choices in shapes(space, site).items():
            if choices:
                share = math.prod(map(_share, choices.values()))
                blocks[key] = exact * share if exact else -0.01
    outside = tuple(site.kind for site in base.sites if site.layer == OUTSIDE)
    return LatencyTable(0.1, blocks, dict.fromkeys(layers, 1), error=0.02, outside=outside)


def narrowing_table(base: Base, space: SearchSpace, *_: object, **__: object) -> LatencyTable:
    """The same, but a last layer that computes one token takes a tenth of its time."""
    table = table_by_units(base, space)
    blocks = {key: share for key, share in table.blocks.items() if removal(key.split()[0])}
    return replace(table, narrowed={key: 0.1 * share for key, share in blocks.items()})


def _share(choice: Choice) -> float:
    if isinstance(choice, Kept):
        return len(choice.kept) / choice.of
    return 1.0 if isinstance(choice, Setting) else 0.9
