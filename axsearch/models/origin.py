"""Origin: what a model that axsearch made smaller was before, and what was done to it since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedConfig

from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.modeling import Layout
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.errors import UsageError
from axsearch.space.recipe import EXACT, Recipe

ENTRY = "axsearch"
"""The entry of a smaller model's config that says what was done to the original model."""


@dataclass(frozen=True)
class Origin:
    """The original model of a smaller one: its recipe, and which of its layers are left.

    Layers of a smaller model are numbered from 0 without gaps, and units counted as they are; both
    are counted here as in the original, which is the model itself where it was not made smaller.

    Attributes:
        layers: for each layer of the model its number in the original.
        recipe: all that was done to the original.
    """

    layers: tuple[int, ...]
    recipe: Recipe = EXACT

    @classmethod
    def of(cls, config: PreTrainedConfig, layout: Layout, count: int) -> Origin:
        """That of a model with this config and ``count`` layers.

        Raises UsageError for an entry of the config that is not as axsearch writes it.
        """
        data = getattr(config, ENTRY, None)
        if data is None:
            return cls(tuple(range(count)))
        if not isinstance(data, dict):
            raise _damaged()
        recipe = Recipe.from_dict(data.get("recipe"), "The recipe in config.json")
        layers = layer_numbers(data["layers"]) if "layers" in data else _left(recipe, layout, count)
        if len(layers) != count:
            raise _damaged()
        return cls(layers, recipe)

    def site(self, site: SiteId) -> SiteId:
        """The original's name of a site of the model."""
        return site if site.layer == OUTSIDE else site._replace(layer=self.layers[site.layer])

    def choices(self, site: SiteId) -> dict[str, Choice]:
        """What was done at a site of the model; units are the original's."""
        return self.recipe.at(*self.site(site))

    def lacks(self, site: SiteId) -> bool:
        """Whether the block at a site of the model is removed."""
        return self.recipe.removed(*self.site(site))

    def kept(self, site: SiteId) -> int | None:
        """How many units were left at a site of the model; None where none was removed."""
        kept = [c.level for c in self.choices(site).values() if isinstance(c, Kept)]
        return kept[0] if kept else None

    def made(self, site: SiteId) -> dict[str, int | None]:
        """The levels of choices at a site of the model that removed no units, by their types."""
        found = self.choices(site).items()
        return {name: choice.level for name, choice in found if not isinstance(choice, Kept)}

    def gone(self) -> frozenset[str]:
        """The original's names of the sites whose block is removed."""
        return frozenset(str(site) for site, _ in self.recipe.sites if self.recipe.removed(*site))

    def then(self, recipe: Recipe, stays: Sequence[int]) -> Origin:
        """The origin of a model that a recipe makes of this one; ``stays`` are its layers here."""
        layers = tuple(self.layers[layer] for layer in stays)
        return Origin(layers, recipe.renumbered(self.layers).after(self.recipe))

    def to_dict(self) -> dict[str, Any]:
        """The entry of a config."""
        return {"recipe": self.recipe.to_dict(), "layers": list(self.layers)}


def is_shaped(config: PreTrainedConfig) -> bool:
    """Whether a model with this config has layers of other sizes than its class makes."""
    return "layers" in (getattr(config, ENTRY, None) or {})


def layer_numbers(layers: Any) -> tuple[int, ...]:
    """The layers that a config lists; raises UsageError where they are none."""
    # Exports of 0.1 and before list the shape of each layer that stays, not only its number.
    found = layers if isinstance(layers, list) else [None]
    found = [one.get("layer") if isinstance(one, dict) else one for one in found]
    if not all(type(one) is int and one >= 0 for one in found):
        raise _damaged()
    if not all(one < other for one, other in pairwise(found)):
        raise _damaged()
    return tuple(found)


def _left(recipe: Recipe, layout: Layout, count: int) -> tuple[int, ...]:
    # A plain checkpoint lacks the layers of which the recipe removes every block.
    kinds = [kind for kind, block in layout.blocks.items() if block.output is not None]
    named = {site.layer for site, _ in recipe.sites}
    lost = {one for one in named if all(recipe.removed(one, kind) for kind in kinds)}
    return tuple(one for one in range(count + len(lost)) if one not in lost)


def _damaged() -> UsageError:
    return UsageError(
        f"The entry {ENTRY!r} of config.json is not as axsearch writes it; export the model again."
    )
