"""From a base model and a recipe to a physically smaller model."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations import recorded
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import Site, SiteId
from axsearch.errors import UsageError
from axsearch.models.architectures import Architecture, architecture_of
from axsearch.models.architectures.modeling.blocks import apply_shapes
from axsearch.models.refit.compensation import Moments, compensate
from axsearch.space.recipe import Recipe

_SITES: WeakKeyDictionary[PreTrainedModel, dict[SiteId, Site]] = WeakKeyDictionary()
"""Those of models seen before, which shrinking asks for several times a recipe."""


@dataclass(frozen=True)
class Plan:
    """What a recipe makes of a base model, layer by layer.

    ``layers`` are the base's layers that stay; ``shapes`` is one dictionary for each of them, as
    an exported config holds it and ``apply_shapes`` takes it. ``whole`` says that each of them
    stays as it is.
    """

    layers: tuple[int, ...]
    shapes: list[dict[str, Any]]
    whole: bool


def sites_by_id(model: PreTrainedModel, length: int = 1) -> dict[SiteId, Site]:
    """The sites of a base model; ``length`` is the longest input in tokens."""
    sites = _SITES.get(model)
    if sites is None:
        family = architecture_of(model.config.model_type)
        sites = _SITES[model] = {site.id: site for site in family.sites(model)}
    return {site.id: replace(site, length=length) for site in sites.values()}


def plan(model: PreTrainedModel, recipe: Recipe) -> Plan:
    """Work out which layers stay and in what shape.

    A layer that loses both its blocks goes as a whole, its LayerNorms included: the hidden state
    passes unchanged. Raises UsageError where the recipe does not fit the model.
    """
    family = architecture_of(model.config.model_type)
    sites = sites_by_id(model)
    for site_id, name, choice in recipe.choices():
        if site_id not in sites:
            raise UsageError(f"The recipe names {site_id}, which this model does not have.")
        site, approximation = sites[site_id], recorded(site_id.kind).get(name)
        if approximation is None:
            raise UsageError(f"The recipe has {name!r} at {site_id}, which axsearch does not know.")
        if name in site.lacks:
            raise UsageError(
                f"The recipe has {name!r} at {site_id}, not supported for "
                f"{model.config.model_type}: {site.lacks[name]}."
            )
        misfit = approximation.misfit(site, choice)
        if misfit is not None:
            raise UsageError(f"The recipe's {name!r} at {site_id} {misfit}.")
    layers: list[int] = []
    shapes: list[dict[str, Any]] = []
    touched: set[int] = set()
    lost = _lost(sites, recipe)
    for layer in sorted({site.layer for site in sites}):
        if layer in lost and not family.stays(model.config, layer, lost):
            continue
        layers.append(layer)
        shape: dict[str, Any] = {"layer": layer, "kept_heads": None}
        shape["attends"] = sum(s["heads"] > 0 for s in shapes)
        for site_id in (SiteId(layer, "attention"), SiteId(layer, "ffn")):
            choices = recipe.at(*site_id)
            touched |= {layer} if choices else set()
            for name, approximation in recorded(site_id.kind).items():
                chosen = choices.get(name)
                shape[name] = (
                    chosen.model_dump(mode="json")
                    if isinstance(chosen, Setting)
                    else approximation.value(sites[site_id], chosen)
                )
        heads = recipe.at(layer, "attention").get("heads")
        if isinstance(heads, Kept):  # a family whose heads are not all alike must know which
            shape["kept_heads"] = list(heads.kept)
        shapes.append(shape)
    whole = not touched and family.plain(model.config, layers)
    return Plan(tuple(layers), shapes, whole)


def sliced_state(
    model: PreTrainedModel, recipe: Recipe, moments: Moments | None = None
) -> dict[str, Tensor]:
    """The state dict of the smaller model: sliced where the recipe says so, shared elsewhere.

    This very dictionary is what an export writes. Works on meta tensors too. ``moments`` are needed
    where the recipe compensates; without them the tensors have the right shapes only, which is
    enough to know a size.
    """
    family = architecture_of(model.config.model_type)
    stays = plan(model, recipe).layers
    state: dict[str, Tensor] = dict(model.state_dict())
    sites = sites_by_id(model)
    for site_id, name, choice in recipe.choices():
        recorded(site_id.kind)[name].cut(sites[site_id], choice, state)
    if moments is not None and recipe.compensation != "none":
        compensate(model.state_dict(), state, sites, recipe, moments)
    renamed = {
        family.layer_prefix(model, old): family.layer_prefix(model, new)
        for new, old in enumerate(stays)
    }
    gone = [family.layer_prefix(model, layer) for layer in _lost(sites, recipe)]
    return {
        _rename(name, renamed): tensor
        for name, tensor in state.items()
        if not any(name.startswith(prefix) for prefix in gone)
    }


def shrink(
    model: PreTrainedModel, recipe: Recipe, moments: Moments | None = None
) -> PreTrainedModel:
    """A smaller model in evaluation mode; the base is untouched and shares what is unchanged.

    Raises UsageError where the recipe does not fit the model, or compensates and no ``moments``
    (:func:`axsearch.models.refit.moments.measure_moments`) were given.
    """
    if recipe.compensation != "none" and moments is None:
        raise UsageError(
            f"The recipe has compensation {recipe.compensation!r}, which needs calibration data."
        )
    family: Architecture = architecture_of(model.config.model_type)
    wanted = plan(model, recipe)
    small = _twin(model)
    family.set_layers(small, wanted.layers)
    with torch.device("meta"):
        apply_shapes(small, wanted.shapes, family.layout)
    small.load_state_dict(sliced_state(model, recipe, moments), assign=True)
    small.eval()
    return small


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """New modules around the same tensors, with a config of their own: nothing large is copied."""
    config = copy.deepcopy(model.config)
    twins: dict[int, nn.Module] = {}

    def twin(module: nn.Module) -> nn.Module:
        if id(module) in twins:  # layers that share their parameters are one module
            return twins[id(module)]
        new = twins[id(module)] = module.__new__(type(module))
        new.__dict__.update(
            # a module's tables of parameters, buffers and hooks are its own, what is in them not
            (name, copy.copy(value) if isinstance(value, dict | set | list) else value)
            for name, value in module.__dict__.items()
        )
        for name, value in module.__dict__.items():
            if value is model.config:
                new.__dict__[name] = config
        for name, child in module._modules.items():
            new._modules[name] = None if child is None else twin(child)
        return new

    made = twin(model)
    assert isinstance(made, PreTrainedModel)
    return made


def _lost(sites: Iterable[SiteId], recipe: Recipe) -> set[int]:
    return {
        site.layer
        for site in sites
        if recipe.removed(site.layer, "attention") and recipe.removed(site.layer, "ffn")
    }


def _rename(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
