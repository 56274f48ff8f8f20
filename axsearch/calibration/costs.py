"""What is known of a model's latency and size before it is made."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transformers import PreTrainedModel

from axsearch.approximations import Level, UnitRemoval
from axsearch.architectures import architecture_of
from axsearch.calibration.latency_table import KINDS, LatencyTable
from axsearch.calibration.problem import Cost
from axsearch.evaluation.size import safetensors_bytes
from axsearch.recipe import Kept, Recipe, SiteId
from axsearch.space import SearchSpace
from axsearch.surgery import sites_by_id

FASTER = 0.05
"""How much faster a level must be than every less approximate one that stays, as a share of it."""


def latency_cost(table: LatencyTable) -> Cost:
    """The time over the base's, by the table."""
    return Cost(table.rest, table.layer)


def size_cost(model: PreTrainedModel) -> Cost:
    """The bytes of the exported file over the base's.

    The header is taken to be the base's. What is missing in it, about a hundred bytes for each
    tensor that is gone, does not show in a model of a useful size.
    """
    sites = sites_by_id(model)
    state = model.state_dict()
    family = architecture_of(model.config.model_type)
    total = safetensors_bytes(state)
    own: dict[int, int] = {}
    for layer in {site.layer for site in sites}:
        prefix = family.layer_prefix(model, layer)
        own[layer] = sum(t.nbytes for name, t in state.items() if name.startswith(prefix))

    def of_layer(recipe: Recipe, layer: int) -> float:
        if all(recipe.removed(layer, kind) for kind in KINDS):
            return 0.0
        left = own[layer]
        for kind in KINDS:
            site = sites[SiteId(layer, kind)]
            width = state[site.units.output.tensor].element_size()
            for choice in recipe.at(layer, kind).values():
                if isinstance(choice, Kept):
                    left -= (choice.of - len(choice.kept)) * site.unit_parameters * width
                    if not choice.kept:
                        left -= sum(state[name].nbytes for name in site.units.whole)
        return left / total

    return Cost(1 - sum(own.values()) / total, of_layer)


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
