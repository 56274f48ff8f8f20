"""What is known of a model's latency and size before it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from axsearch.approximations import Level, UnitRemoval, recorded
from axsearch.approximations.choices import Subset
from axsearch.approximations.site import OUTSIDE, Site, SiteId
from axsearch.evaluation.size import INT8, model_bytes, tensor_bytes
from axsearch.models.base_model import Base
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable, block_key
from axsearch.space.problem import Cost
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.size_table import SizeTable

FASTER = 0.05
"""How much faster a level must be than every less approximate one that stays, as a share of it."""

CERTAIN = 2.0
"""Standard errors by which a level must miss that to be left out."""


def latency_cost(
    table: LatencyTable, lengthening: Callable[[Recipe], float] = lambda _: 1.0
) -> Cost:
    """The time over the base's, by the table.

    ``lengthening`` is how many times as many tokens a recipe's model reads. What that adds is taken
    to be what it adds to the base: more than to any smaller model.
    """

    def layer(recipe: Recipe, layer: int) -> float:
        # A choice that narrows the last layer saves time there, which only the whole model shows.
        longer = lengthening(recipe) - 1 if layer == OUTSIDE else 0.0
        return table.layer(recipe.lossy, layer) + longer

    return Cost(table.rest, layer, table.saved_if_last if table.narrowed else None)


def size_cost(table: SizeTable) -> Cost:
    """The bytes of the exported file over the base's."""
    return Cost(table.rest, table.layer)


def size_table(base: Base, precision: str = "float32") -> SizeTable:
    """What each part of a model takes of the file that it is served from in this precision.

    The header is taken to be the base's. What is missing in it, about a hundred bytes for each
    tensor that is removed, does not show in a model of a useful size.
    """
    state, sites = base.state, base.sites
    total = model_bytes(state, precision=precision)
    layers: dict[int, float] = {}
    for layer in sorted({site.layer for site in sites if site.layer != OUTSIDE}):
        prefix = base.family.layer_prefix(base.model, layer)
        layers[layer] = (
            sum(tensor_bytes(t, precision) for name, t in state.items() if name.startswith(prefix))
            / total
        )
    units = {id: site.units for id, site in sites.items()}
    return SizeTable(
        1 - sum(layers.values()),
        layers,
        {id: _unit_bytes(site, state, precision) / total for id, site in sites.items()},
        {id: sum(tensor_bytes(state[n], precision) for n in own.whole) / total if own else 0.0
         for id, own in units.items()},
        _others(base, total, precision),
    )  # fmt: skip


def _unit_bytes(site: Site, state: Mapping[str, Tensor], precision: str) -> float:
    """Bytes of one unit of a site, or of one row of its table."""
    if site.units is not None:
        size = 1 if precision == INT8 else state[site.units.output.tensor].element_size()
        return site.unit_parameters * size
    if not site.rows:
        return 0.0
    return tensor_bytes(state[f"{site.modules[0]}.weight"], precision) / site.rows


def _others(base: Base, total: int, precision: str) -> dict[tuple[SiteId, str], float]:
    """What the levels save of approximations that cut tensors but keep neither units nor rows."""
    full = sum(tensor_bytes(tensor, precision) for tensor in base.state.values())
    found = {}
    for site_id, site in base.sites.items():
        for approximation in recorded(site_id.kind).values():
            if not approximation.cuts or issubclass(approximation.choice_type, Subset):
                continue
            if site.refusal(approximation.needs):
                continue
            for level in approximation.levels(site):
                choice = approximation.choice(site, level, range(site.count))
                if choice is None or not approximation.further(site, level):
                    continue
                recipe = Recipe.of({site_id: {approximation.name: choice}})
                left = sum(tensor_bytes(t, precision) for t in base.cut(recipe).values())
                found[site_id, block_key(recipe, site_id)] = (full - left) / total
    return found


def slower_levels(space: SearchSpace, table: LatencyTable) -> Mapping[str, Collection[Level]]:
    """The levels that certainly run no faster than a less approximate one, by dimension.

    They would cost accuracy for nothing. A removed block always stays, for its size, and so does
    whatever else is there for its size, and a part of a mask: it is one of many that together run
    faster.
    """
    found: dict[str, list[Level]] = {}
    for dimension in space.dimensions:
        if len(dimension.sites) > 1 and not dimension.approximation.shared:  # whole layers
            continue
        if dimension.approximation.parts(dimension.sites[0]) > 1:
            continue
        if not dimension.approximation.timed:
            continue
        site = dimension.sites[0].id
        fastest, fastest_error = table.block(EXACT, site), 0.0
        for level, value in enumerate(dimension.levels[1:], 1):
            recipe = space.recipe({**space.exact(), dimension.name: level})
            share = table.block(recipe, site)
            error = table.errors.get(table.key(recipe, site), 0.0)
            doubt = CERTAIN * math.hypot(error, fastest_error)
            units = isinstance(dimension.approximation, UnitRemoval)
            removes = not value if units else dimension.approximation.cuts
            faster = share - doubt <= (1 - FASTER) * fastest
            if dimension.approximation.narrows:  # which loses nothing: any time saved is welcome
                faster = share < fastest
            if faster or removes:
                if share < fastest:
                    fastest, fastest_error = share, error
            else:
                found.setdefault(dimension.name, []).append(value)
    return found
