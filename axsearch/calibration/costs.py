"""What is known of a model's latency and size before it is made."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transformers import PreTrainedModel

from axsearch.approximations import Level, UnitRemoval
from axsearch.evaluation.size import safetensors_bytes
from axsearch.models.architectures import architecture_of
from axsearch.models.surgery import sites_by_id
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable
from axsearch.space.problem import Cost
from axsearch.space.recipe import Recipe
from axsearch.space.size_table import SizeTable

FASTER = 0.05
"""How much faster a level must be than every less approximate one that stays, as a share of it."""


def latency_cost(table: LatencyTable) -> Cost:
    """The time over the base's, by the table."""
    return Cost(table.rest, table.layer)


def size_cost(table: SizeTable) -> Cost:
    """The bytes of the exported file over the base's."""
    return Cost(table.rest, table.layer)


def size_table(model: PreTrainedModel) -> SizeTable:
    """What each part of a model takes of its exported file.

    The header is taken to be the base's. What is missing in it, about a hundred bytes for each
    tensor that is gone, does not show in a model of a useful size.
    """
    sites = sites_by_id(model)
    state = model.state_dict()
    family = architecture_of(model.config.model_type)
    total = safetensors_bytes(state)
    layers: dict[int, float] = {}
    for layer in sorted({site.layer for site in sites}):
        prefix = family.layer_prefix(model, layer)
        layers[layer] = (
            sum(t.nbytes for name, t in state.items() if name.startswith(prefix)) / total
        )
    return SizeTable(
        1 - sum(layers.values()),
        layers,
        {
            id: site.unit_parameters * state[site.units.output.tensor].element_size() / total
            for id, site in sites.items()
        },
        {
            id: sum(state[name].nbytes for name in site.units.whole) / total
            for id, site in sites.items()
        },
    )


def slower_levels(space: SearchSpace, table: LatencyTable) -> Mapping[str, Collection[Level]]:
    """The levels that run no faster than a less approximate one, by dimension.

    They would cost accuracy for nothing. A removed block always stays, for its size, and so does a
    part of a mask: it is one of many that together run faster.
    """
    found: dict[str, list[Level]] = {}
    for dimension in space.dimensions:
        if len(dimension.sites) > 1:  # whole layers
            continue
        if dimension.approximation.parts(dimension.sites[0]) > 1:
            continue
        site = dimension.sites[0].id
        fastest = table.block(Recipe.of({}), site)
        for level, value in enumerate(dimension.levels[1:], 1):
            recipe = space.recipe({**space.exact(), dimension.name: level})
            share = table.block(recipe, site)
            removes = isinstance(dimension.approximation, UnitRemoval) and not value
            if share <= (1 - FASTER) * fastest or removes:
                fastest = min(fastest, share)
            else:
                found.setdefault(dimension.name, []).append(value)
    return found
