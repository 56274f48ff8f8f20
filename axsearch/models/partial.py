"""Running a part of a model's layers: from the output of one on, and no further than another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations.choices import Subset
from axsearch.approximations.site import OUTSIDE
from axsearch.models.base_model import Base
from axsearch.space.recipe import Recipe


class Given(nn.Module):
    """Replaces a layer that need not be run: returns the output of the uppermost of these layers.

    Everything else that a model reads from a layer, such as ModernBERT's kind of attention, is the
    layer's. In place of embeddings it returns numbers that nothing reads.
    """

    def __init__(self, layer: nn.Module | None, output: Any) -> None:
        super().__init__()
        self.__dict__["_layer"] = layer  # no child
        self._given = output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output, whatever the arguments."""
        return self._given


def hidden_of(output: Any) -> Tensor:
    """The hidden state in a layer's output, which some families return in a tuple."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def starting(base: Base, model: PreTrainedModel, start: int, given: Any) -> Iterator[None]:
    """While open, neither the layers of ``model`` below ``start`` are run nor its embeddings.

    ``given`` is the output of the last of these layers; if ``start`` is 0, all is run.
    """
    layers, body = base.layers(model), model.base_model
    there, name = list(layers[:start]), base.family.embeddings if start else None
    embeddings = None if name is None else getattr(body, name)
    try:
        for number, layer in enumerate(there):
            layers[number] = Given(layer, given)
        if name is not None:
            hidden = hidden_of(given)
            setattr(body, name, Given(embeddings, hidden.new_zeros(()).expand(hidden.shape)))
        yield
    finally:
        for number, layer in enumerate(there):
            layers[number] = layer
        if name is not None:
            setattr(body, name, embeddings)


class Reached(Exception):  # noqa: N818  # no error: it ends a forward pass where enough was seen
    """Raised by a hook where a forward pass need not go on."""


def run_until_reached(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Run a model until a hook raises :class:`Reached`."""
    with suppress(Reached):
        model(**batch)


def prefixes_of(base: Base, recipe: Recipe, dtype: str) -> list[str]:
    """For each layer that stays, a hash of all choices in it and below it.

    Layers with the same hash compute the same from the same inputs, also where their weights were
    refitted, which is done from the bottom up. A smaller vocabulary counts as a choice below all
    layers. There are none where one module is run by several layers, another choice lies outside of
    layers, or weights were trained. ``dtype`` is that of the computation.
    """
    if recipe.recovery is not None:
        return []
    lossless = [(site, name) for site, name, choice in recipe.choices() if choice.lossless]
    recipe = recipe.lossy
    outside = [choice for site, _, choice in recipe.choices() if site.layer == OUTSIDE]
    if base.repeats or any(choice.vocabulary is None for choice in outside):
        return []  # one module is run by several layers, or all layers have another input
    stays = base.plan(recipe).layers
    # Any k in a model lets all of its layers attend through another function.
    attends = any(not isinstance(choice, Subset) for _, _, choice in recipe.choices())
    digest = hashlib.sha256(f"{dtype} {recipe.compensation} {attends}".encode())
    found, choices = [], list(recipe.choices())
    for layer in range(stays[-1] + 1 if stays else 0):
        while choices and choices[0][0].layer <= layer:
            site, name, choice = choices.pop(0)
            digest.update(f"{site} {name} {choice.model_dump_json()}".encode())
        if layer in stays:
            if lossless and layer == stays[-1]:  # the only layer that these change
                digest.update(f"{lossless}".encode())
            digest.update(f"layer {layer}".encode())  # or it would have the hash of the one below
            found.append(digest.copy().hexdigest())
    return found
