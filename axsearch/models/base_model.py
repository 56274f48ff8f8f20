"""Base: the user's model, and all that is needed to make smaller ones of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations import Level, UnitRemoval, recorded, together
from axsearch.approximations.modeling import apply_choices
from axsearch.approximations.site import OUTSIDE, Site, SiteId
from axsearch.models import surgery
from axsearch.models.architectures import architecture_of
from axsearch.models.origin import ENTRY
from axsearch.models.surgery import Plan
from axsearch.space.recipe import Recipe

PLANS = 64
"""Size of the cache of plans: one recipe is looked up several times in a row."""


class Base:
    """A fine-tuned model that stays as it is, its family and its sites.

    Args:
        model: in evaluation mode.
        length: the longest input, in tokens, that the model will see.
        dtype: in which its weights are kept in a file, whatever it computes in.

    Raises:
        UsageError: the model's family is not supported.

    Attributes:
        model: the model itself; smaller models share what is unchanged.
        dtype: in which smaller models are kept in a file, too.
        family: its architecture, as axsearch knows it.
        sites: what can be approximated, layer by layer.
    """

    def __init__(
        self, model: PreTrainedModel, length: int = 1, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.family = architecture_of(model.config.model_type)
        self.sites: Mapping[SiteId, Site] = {
            site.id: site for site in self.family.sites(model, length)
        }
        self.plan: Callable[[Recipe], Plan] = lru_cache(maxsize=PLANS)(self._plan)
        """Which layers stay; raises UsageError where a recipe does not fit the model."""

    def _plan(self, recipe: Recipe) -> Plan:
        return surgery.plan(self.model, self.family, self.sites, recipe)

    @property
    def blocks(self) -> tuple[SiteId, ...]:
        """The sites, and the blocks that a base which is an export lacks in layers that have some,
        in the order of a forward pass.
        """
        own = self.family.layout.blocks
        layers = dict.fromkeys(id.layer for id in self.sites if id.layer != OUTSIDE)
        inside = (SiteId(layer, kind) for layer in layers for kind in own)
        outside = (id for id in self.sites if id.layer == OUTSIDE)
        return (*(id for id in inside if id in self.sites or own[id.kind].output), *outside)

    def choices(self, recipe: Recipe) -> dict[str, dict[str, Level]]:
        """Units kept and k of a recipe's model, layer by layer of the base; 0 units of a block that
        an export lacks. Raises UsageError where the recipe does not fit the model.
        """
        self.plan(recipe)
        described: dict[str, dict[str, Level]] = {}
        for id in self.blocks:
            place, site = described.setdefault(id.place, {}), self.sites.get(id)
            for name, approximation in recorded(id.kind).items():
                if site is not None:
                    level = approximation.value(site, recipe.at(*id).get(name))
                else:
                    level = 0 if isinstance(approximation, UnitRemoval) else None
                place[name] = together(place.get(name), level)
        return described

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict, on the device where the model is now."""
        return dict(self.model.state_dict())

    @property
    def repeats(self) -> bool:
        """Whether one layer's module is run by several layers."""
        return any(site.repeats > 1 for site in self.sites.values())

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The layers of the base or of a smaller model of it."""
        return self.family.layers(model)

    def gates(self, model: PreTrainedModel) -> dict[SiteId, nn.Module]:
        """Of the base or a smaller model, see :meth:`Architecture.gates`."""
        return self.family.gates(model)

    def cut(
        self, recipe: Recipe, refit: Callable[[dict[str, Tensor]], None] | None = None
    ) -> dict[str, Tensor]:
        """The state dict of a smaller model: sliced where the recipe says so, shared elsewhere.

        Works on meta tensors too. Without ``refit``, which changes the cut tensors in place under
        their names in the base, all shapes are right, which is enough to know a size. Raises
        UsageError where the recipe does not fit the model.
        """
        stays = self.plan(recipe).layers
        state = self.state
        surgery.cut(self.sites, recipe, state, units=True)
        if refit is not None:
            refit(state)
        surgery.cut(self.sites, recipe, state, units=False)
        lost = surgery.lost_layers(self.sites, recipe)
        return surgery.renamed(self.model, self.family, stays, lost, state)

    def shrink(self, recipe: Recipe, state: Mapping[str, Tensor]) -> PreTrainedModel:
        """A smaller model in evaluation mode, of the tensors of ``state``; the base is untouched.

        Raises UsageError where the recipe does not fit the model.
        """
        plan, origin = self.plan(recipe), self.family.origin(self.model)
        small = surgery.twin(self.model)
        self.family.set_layers(small, plan.layers)
        # In a base that was narrowed another layer may have been the last one.
        made = recipe.renumbered(origin.layers).with_lossless(origin.recipe)
        with torch.device("meta"):
            apply_choices(
                small,
                made.to_dict()["sites"],
                plan.after.layers,
                self.family.layout,
                surgery.halves_of(made),
                origin.gone(),
            )
        for name, value in {**plan.entries, ENTRY: plan.after.to_dict()}.items():
            setattr(small.config, name, value)
        small.load_state_dict(state, assign=True)
        small.eval()
        return small
