"""From a base model and a recipe to a physically smaller model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations import Site, approximations
from axsearch.architectures import Architecture, architecture_of
from axsearch.errors import UsageError
from axsearch.recipe import Recipe, Setting, SiteId


@dataclass(frozen=True)
class Plan:
    """What a recipe makes of a base model, layer by layer.

    ``layers`` are the base's layers that stay; ``shapes`` is one dictionary for each of them,
    approximation to units kept or setting, as an exported config holds it.
    """

    layers: tuple[int, ...]
    shapes: list[dict[str, Any]]


def sites_by_id(model: PreTrainedModel, length: int = 1) -> dict[SiteId, Site]:
    """The sites of a base model; ``length`` is the longest input in tokens."""
    family = architecture_of(model.config.model_type)
    return {site.id: site for site in family.sites(model.config, length)}


def plan(model: PreTrainedModel, recipe: Recipe) -> Plan:
    """Work out which layers stay and in what shape.

    A layer that loses both its blocks goes as a whole, its LayerNorms included: the hidden state
    passes unchanged. Raises UsageError where the recipe does not fit the model.
    """
    sites = sites_by_id(model)
    for site_id, name, choice in recipe.choices():
        approximation = approximations().get(name)
        if site_id not in sites:
            raise UsageError(f"The recipe names {site_id}, which this model does not have.")
        if approximation is None or approximation.kind != site_id.kind:
            raise UsageError(f"The recipe has {name!r} at {site_id}, which axsearch does not know.")
        misfit = approximation.misfit(sites[site_id], choice)
        if misfit is not None:
            raise UsageError(f"The recipe's {name!r} at {site_id} {misfit}.")
    layers, shapes = [], []
    for layer in sorted({site.layer for site in sites}):
        if recipe.removed(layer, "attention") and recipe.removed(layer, "ffn"):
            continue
        layers.append(layer)
        shape: dict[str, Any] = {}
        for name, approximation in approximations().items():
            chosen = recipe.at(layer, approximation.kind).get(name)
            site = sites[SiteId(layer, approximation.kind)]
            shape[name] = (
                chosen.model_dump(mode="json")
                if isinstance(chosen, Setting)
                else approximation.value(site, chosen)
            )
        shapes.append(shape)
    return Plan(tuple(layers), shapes)


def sliced_state(model: PreTrainedModel, recipe: Recipe) -> dict[str, Tensor]:
    """The state dict of the smaller model: sliced where the recipe says so, shared elsewhere.

    This very dictionary is what an export writes. Works on meta tensors too.
    """
    family = architecture_of(model.config.model_type)
    stays = plan(model, recipe).layers
    state: dict[str, Tensor] = dict(model.state_dict())
    sites = sites_by_id(model)
    for site_id, name, choice in recipe.choices():
        approximations()[name].cut(sites[site_id], choice, state)
    renamed = {family.layer_prefix(old): family.layer_prefix(new) for new, old in enumerate(stays)}
    gone = [family.layer_prefix(site.layer) for site in sites if site.layer not in stays]
    return {
        _rename(name, renamed): tensor
        for name, tensor in state.items()
        if not any(name.startswith(prefix) for prefix in gone)
    }


def shrink(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """A smaller model in evaluation mode; the base is untouched and shares what is unchanged.

    Raises UsageError where the recipe does not fit the model.
    """
    family: Architecture = architecture_of(model.config.model_type)
    wanted = plan(model, recipe)
    shared = (*model.parameters(), *model.buffers())
    small: PreTrainedModel = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    layers = family.layers(small)
    family.set_layers(small, [layers[layer] for layer in wanted.layers])
    with torch.device("meta"):
        family.apply_shapes(small, wanted.shapes)
    small.load_state_dict(sliced_state(model, recipe), assign=True)
    small.eval()
    return small


def _rename(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
