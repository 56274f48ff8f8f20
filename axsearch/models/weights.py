"""Weights: the tensors of a recipe's model, and where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments, Refit, compensate
from axsearch.space.recipe import Recipe
from axsearch.system.memory import TensorCache, budget


class Weights(ABC):
    """Where the tensors of smaller models come from.

    A study compares every model with its *reference*, the user's base. Its *source* is the model
    whose tensors are cut: the base, or a super-network or soup of the same shape. In a trial
    :meth:`state` is asked for a recipe's tensors once the recipe is known to fit; :meth:`prepare`
    is called before the first trial, when progress can be shown.

    Attributes:
        key: distinguishes these weights from others of the same recipe, base and calibration split;
            part of the key of every accuracy, latency and export. Empty for the closed form.
        source: the model whose tensors are cut.
    """

    key: str
    source: Base

    @abstractmethod
    def state(self, recipe: Recipe) -> dict[str, Tensor]:
        """The state dict of a recipe's model; an export writes this very dictionary."""

    @abstractmethod
    def prepare(self) -> None:
        """Measure or load what every recipe needs."""

    def shrink(self, recipe: Recipe) -> PreTrainedModel:
        """A recipe's model, in evaluation mode; raises UsageError where it does not fit."""
        return self.source.shrink(recipe, self.state(recipe))


class ClosedForm(Weights):
    """The source's own tensors, refitted in closed form where a recipe compensates.

    Args:
        source: the base.
        moments: of its inputs on calibration examples, or a function that measures them when they
            are first needed; None where no recipe compensates.

    Attributes:
        refits: weights that were refitted before, those used last.
    """

    key = ""

    def __init__(
        self, source: Base, moments: Moments | Callable[[], Moments] | None = None
    ) -> None:
        self.source = source
        self._moments = moments
        self.refits: TensorCache[tuple[Hashable, ...], Refit] = TensorCache(budget(share=1 / 16))

    @cached_property
    def moments(self) -> Moments:
        """The moments that the refit needs; raises UsageError where there are none."""
        if self._moments is None:
            raise UsageError("Compensation needs calibration data.")
        return self._moments() if callable(self._moments) else self._moments

    def prepare(self) -> None:
        """Measure the moments."""
        _ = self.moments

    def state(self, recipe: Recipe) -> dict[str, Tensor]:
        """Cut, then refitted; raises UsageError where no moments were given and it compensates."""
        if recipe.compensation == "none":
            return self.source.cut(recipe)
        if self._moments is None:
            raise UsageError(
                f"The recipe has compensation {recipe.compensation!r}, which needs calibration "
                "data."
            )

        def refit(state: dict[str, Tensor]) -> None:
            source, before = self.source, dict(state)
            compensate(source.state, state, source.sites, recipe, self.moments, self.refits)
            if source.dtype != torch.float32:  # as an export of the model will have them
                new = {n: tensor for n, tensor in state.items() if tensor is not before.get(n)}
                state.update(rounded(new, source.dtype))

        return self.source.cut(recipe, refit)


class Rounded(Weights):
    """Other weights as they are after they were written in another type, such as float16."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._weights, self._dtype = weights, dtype
        self.key = f"{weights.key} {dtype}".strip()
        self.source = weights.source

    def prepare(self) -> None:
        """Prepare the other weights."""
        self._weights.prepare()

    def state(self, recipe: Recipe) -> dict[str, Tensor]:
        """Those of the other weights, rounded."""
        return rounded(self._weights.state(recipe), self._dtype)


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with the numbers that ``dtype`` has for theirs, in the type that they had."""
    return {
        name: tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def shrink(
    model: PreTrainedModel, recipe: Recipe, moments: Moments | None = None
) -> PreTrainedModel:
    """A smaller model in evaluation mode; the base is untouched and shares its unchanged tensors.

    Raises UsageError where the recipe does not fit the model, or compensates and no ``moments``
    (:func:`axsearch.models.refit.moments.measure_moments`) were passed.
    """
    return ClosedForm(Base(model), moments).shrink(recipe)
