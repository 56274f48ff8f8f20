"""From a base model and a recipe to the modules and tensors of a physically smaller model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations import recorded
from axsearch.approximations.choices import Kept
from axsearch.approximations.modeling import Modeling
from axsearch.approximations.site import OUTSIDE, Site, SiteId
from axsearch.errors import UsageError
from axsearch.models.architectures import Architecture
from axsearch.models.origin import Origin
from axsearch.space.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """The layers of a base that a recipe keeps.

    Attributes:
        layers: the base's layers that stay.
        plain: whether the class of the original can hold the model: its layers are as they were, or
            all have the same new width.
        entries: the entries of the config that change, beside those of layers and tokens.
        after: the original of the smaller model, and all that was done to it. Where the base is no
            export it is the base itself.
    """

    layers: tuple[int, ...]
    plain: bool
    after: Origin
    entries: Mapping[str, int] = field(default_factory=dict)


def plan(
    model: PreTrainedModel, family: Architecture, sites: Mapping[SiteId, Site], recipe: Recipe
) -> Plan:
    """Work out which layers stay.

    A layer that loses all its blocks is removed as a whole, its LayerNorms included: the hidden
    state passes unchanged. Raises UsageError where the recipe does not fit the model.
    """
    check_fit(model, sites, recipe)
    lost, origin = lost_layers(sites, recipe), family.origin(model)
    layers = tuple(
        layer
        for layer in range(len(origin.layers))
        if layer not in lost or family.stays(model.config, layer, lost)
    )
    after = origin.then(recipe, layers)
    entries = _plain_entries(family, after)
    plain = entries is not None and family.plain(model.config, after.layers)
    if not plain or entries is None:
        # The code of an export starts from the original's widths; a plain base has others.
        entries = {
            family.widths[site.kind]: choice.of
            for site, _, choice in after.recipe.choices()
            if site.kind in family.widths and isinstance(choice, Kept)
        }
    now = {name: getattr(model.config, name, None) for name in entries}
    changed = {n: v for n, v in entries.items() if now[n] != v and (plain or now[n] is not None)}
    return Plan(layers, plain, after, changed)


def _plain_entries(family: Architecture, after: Origin) -> dict[str, int] | None:
    """The widths with which the original's class makes layers like these; None if it cannot."""
    widths: dict[str, list[int]] = {}
    for site, name, choice in after.recipe.choices():
        if site.layer not in (*after.layers, OUTSIDE) or recorded(site.kind)[name].plain:
            continue
        if site.kind not in family.widths or not isinstance(choice, Kept) or choice.removes:
            return None
        widths.setdefault(family.widths[site.kind], []).append(choice.level)
    if any(len(own) < len(after.layers) or len({*own}) > 1 for own in widths.values()):
        return None
    return {entry: own[0] for entry, own in widths.items()}


def check_fit(model: PreTrainedModel, sites: Mapping[SiteId, Site], recipe: Recipe) -> None:
    """Raises UsageError where a recipe's choices do not fit the sites of a model."""
    for site_id, name, choice in recipe.choices():
        if site_id not in sites:
            raise UsageError(f"The recipe names {site_id}, which this model does not have.")
        site, approximation = sites[site_id], recorded(site_id.kind).get(name)
        if approximation is None:
            raise UsageError(f"The recipe has {name!r} at {site_id}, which axsearch does not know.")
        reason = site.refusal(approximation.needs)
        if reason is not None:
            raise UsageError(
                f"The recipe has {name!r} at {site_id}, not supported for "
                f"{model.config.model_type}: {reason}."
            )
        if approximation.cuts and not approximation.further(site, choice.level):
            raise UsageError(f"The recipe's {name!r} at {site_id} was done to this model before.")
        misfit = approximation.misfit(site, choice)
        if misfit is not None:
            raise UsageError(f"The recipe's {name!r} at {site_id} {misfit}.")


def cut(
    sites: Mapping[SiteId, Site], recipe: Recipe, state: dict[str, Tensor], *, units: bool
) -> None:
    """Slice the tensors of ``state``, which has the base's names, to what a recipe leaves.

    With ``units`` the units are removed, otherwise all else is done: weights are refitted between
    the two, as what changes a tensor in another way must change the refitted one.
    """
    for site_id, name, choice in recipe.choices():
        if isinstance(choice, Kept) is not units:
            continue
        modeling = recorded(site_id.kind)[name].modeling
        modeling.cut(sites[site_id], choice.to_dict(), state)


def renamed(
    model: PreTrainedModel,
    family: Architecture,
    layers: Iterable[int],
    lost: Iterable[int],
    state: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """A state dict without the lost layers, the others having the names of their new places."""
    places = {
        family.layer_prefix(model, old): family.layer_prefix(model, new)
        for new, old in enumerate(layers)
    }
    without = tuple(family.layer_prefix(model, layer) for layer in lost)
    return {
        _rename(name, places): tensor
        for name, tensor in state.items()
        if not name.startswith(without)
    }


def halves_of(recipe: Recipe) -> dict[str, type[Modeling]]:
    """The modeling halves of the approximations that a recipe uses, by the type of its choices.

    Raises UsageError for a type that no site of its kind may have.
    """
    found = {}
    for site, name, _ in recipe.choices():
        if name not in recorded(site.kind):
            raise UsageError(f"The recipe has {name!r} at {site}, which axsearch does not know.")
        found[name] = recorded(site.kind)[name].modeling
    return found


def lost_layers(sites: Mapping[SiteId, Site], recipe: Recipe) -> set[int]:
    """The layers of which a recipe removes every block; a site without units is not a block."""
    ids = [id for id, site in sites.items() if id.layer != OUTSIDE and site.units is not None]
    stay = {site.layer for site in ids if not recipe.removed(*site)}
    return {site.layer for site in ids} - stay


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """New modules around the same tensors, with a config of their own: nothing large is copied."""
    config = copy.deepcopy(model.config)
    twins: dict[int, nn.Module] = {}

    def copied(module: nn.Module) -> nn.Module:
        if id(module) in twins:  # layers that share their parameters are one module
            return twins[id(module)]
        new = twins[id(module)] = module.__new__(type(module))
        new.__dict__.update(
            # a module's tables of parameters, buffers and hooks are its own, what is in them not
            (name, value.copy() if isinstance(value, dict | set | list) else value)
            for name, value in module.__dict__.items()
        )
        for name, value in module.__dict__.items():
            if value is model.config:
                new.__dict__[name] = config
        for name, child in module._modules.items():
            new._modules[name] = None if child is None else copied(child)
        return new

    made = copied(model)
    assert isinstance(made, PreTrainedModel)
    return made


def _rename(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
