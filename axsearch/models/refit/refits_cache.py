"""Polished weights in the user's cache: a search computes them, exports and reports read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from axsearch.approximations.site import SiteId
from axsearch.models import base_model, partial, surgery
from axsearch.models.refit import compensation, moments, sample, sequential, sums, walk
from axsearch.models.refit.sequential import Fitted
from axsearch.space.recipe import Recipe
from axsearch.system.tensor_files import TensorFiles

MADE_BY = (base_model, compensation, moments, partial, sample, sequential, sums, surgery, walk)
"""The modules on whose code the weights depend."""

MOST_BYTES = 2 * 2**30
"""Size of the cache; files used longest ago are deleted. A model has the bytes of the blocks that
were refitted, for BERT-base at most 340 MB."""


class RefitFiles:
    """What sequential refits of many examples have found, by recipe.

    Args:
        key: what they depend on beside the recipe: fingerprints of the model and of the examples,
            how many these are, the device.
    """

    def __init__(self, key: Sequence[str]) -> None:
        self._key = key
        sources = [str(module.__file__) for module in MADE_BY]
        self._files = TensorFiles("refits", MOST_BYTES, sources)

    def read(self, recipe: Recipe, device: torch.device) -> dict[SiteId, Fitted] | None:
        """The refitted blocks of a recipe's model; None where they are not known."""
        tensors = self._files.read([*self._key, recipe.hash])
        if tensors is None:
            return None
        found: dict[SiteId, Fitted] = {}
        for name, tensor in tensors.items():
            site, _, own = name.partition(" ")
            found.setdefault(SiteId.parse(site), {})[own] = tensor.to(device)
        return found

    def write(self, recipe: Recipe, found: Mapping[SiteId, Fitted]) -> None:
        """Keep the refitted blocks of a recipe's model."""
        tensors = {f"{site} {name}": t for site, own in found.items() for name, t in own.items()}
        self._files.write([*self._key, recipe.hash], tensors)
