"""Weights: the tensors of a recipe's model, and where they come from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments, Refit, compensate
from axsearch.models.refit.refits_cache import RefitFiles
from axsearch.models.refit.sample import Sample
from axsearch.models.refit.sequential import SequentialRefit
from axsearch.space.recipe import Compensation, Recipe
from axsearch.system.memory import TensorCache, budget

SHARED = (
    "several layers of this model share one set of weights, which cannot be fitted in turn; use "
    "least_squares"
)
"""Why a model cannot be refitted sequentially."""


def check_compensation(compensation: str, base: Base) -> None:
    """Raises UsageError for a compensation that a base cannot have, or that does nothing."""
    if compensation == "sequential" and base.repeats:
        raise UsageError(f'`compensation="sequential"` cannot be used: {SHARED}.')
    if compensation == "bias" and not any(s.units and s.units.bias for s in base.sites.values()):
        raise UsageError(
            '`compensation="bias"` does nothing here: this model\'s projections have no bias; use '
            "least_squares or none."
        )


def choose_compensation(asked: str | None, usual: str, base: Base) -> str:
    """What is asked for; where nothing is, ``usual``, or what takes its place for this base.

    That is ``least_squares`` for ``sequential`` where layers share weights. Raises UsageError for
    what is asked for and the base cannot have, or what does nothing.
    """
    chosen = asked or usual
    if asked is None and chosen == "sequential" and base.repeats:
        return "least_squares"
    check_compensation(chosen, base)
    return chosen


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
    def prepare(self, compensation: Compensation) -> None:
        """Measure or load what every recipe with this compensation needs."""

    def release(self) -> None:  # noqa: B027 - most keep nothing
        """Free what is kept only to save time; it is made again where it is needed."""

    def shrink(self, recipe: Recipe) -> PreTrainedModel:
        """A recipe's model, in evaluation mode; raises UsageError where it does not fit."""
        return self.source.shrink(recipe, self.state(recipe))


class ClosedForm(Weights):
    """The source's own tensors, refitted in closed form where a recipe compensates.

    Args:
        source: the base.
        moments: of its inputs on calibration examples, or a function that measures them when they
            are first needed; None where no recipe compensates with them.
        sample: a function that measures the examples on which recipes are refitted sequentially;
            None where none is.
        key: of these weights, where the sample is not that of trials.
        memory: bytes for the caches of the sequential refit, where not the usual ones.
        files: where sequential refits are kept for later processes, if they are.

    Attributes:
        refits: weights that were refitted before, those used last.
    """

    def __init__(
        self,
        source: Base,
        moments: Moments | Callable[[], Moments] | None = None,
        sample: Callable[[], Sample] | None = None,
        *,
        key: str = "",
        memory: int | None = None,
        files: RefitFiles | None = None,
    ) -> None:
        self.source = source
        self.key = key
        self._moments = moments
        self._files = files
        self._sequential = None if sample is None else SequentialRefit(source, sample, memory)
        self.refits: TensorCache[tuple[Hashable, ...], Refit] = TensorCache(budget(share=1 / 16))

    @cached_property
    def moments(self) -> Moments:
        """The moments that the refit needs; raises UsageError where there are none."""
        if self._moments is None:
            raise UsageError("Compensation needs calibration data.")
        return self._moments() if callable(self._moments) else self._moments

    def prepare(self, compensation: Compensation) -> None:
        """Measure the moments or the sample, where they are needed and to be had."""
        if compensation == "sequential" and self._sequential is not None:
            _ = self._sequential.sample
        elif compensation in ("bias", "least_squares") and self._moments is not None:
            _ = self.moments

    def state(self, recipe: Recipe) -> dict[str, Tensor]:
        """Cut, then refitted; raises UsageError where it compensates and the data are missing, and
        where the weights were trained.
        """
        if recipe.recovery is not None:
            raise UsageError(
                "The recipe's weights were trained and cannot be computed from it; `axsearch "
                "export` takes them from the files of the study that trained them."
            )
        if recipe.compensation == "none":
            return self.source.cut(recipe)
        in_turn = recipe.compensation == "sequential"
        if in_turn and self.source.repeats:
            raise UsageError(f"The recipe has compensation 'sequential', but {SHARED}.")
        if (self._sequential if in_turn else self._moments) is None:
            raise UsageError(
                f"The recipe has compensation {recipe.compensation!r}, which needs calibration "
                "data."
            )
        return self.source.cut(recipe, self._in_turn(recipe) if in_turn else self._alone(recipe))

    def release(self) -> None:
        """Free what was refitted, and what the base computes on the sample."""
        self.refits.clear()
        if self._sequential is not None:
            self._sequential.release()

    def _alone(self, recipe: Recipe) -> Callable[[dict[str, Tensor]], None]:
        """Refits each block on what it receives in the base."""

        def refit(state: dict[str, Tensor]) -> None:
            source, before = self.source, dict(state)
            compensate(source.state, state, source.sites, recipe, self.moments, self.refits)
            if source.dtype != torch.float32:  # as an export of the model will have them
                new = {n: tensor for n, tensor in state.items() if tensor is not before.get(n)}
                state.update(rounded(new, source.dtype))

        return refit

    def _in_turn(self, recipe: Recipe) -> Callable[[dict[str, Tensor]], None]:
        """Refits each block on what it receives in the smaller model."""
        assert self._sequential is not None
        recipe = recipe.refitted  # what else there is changes what hooks would see
        files, device = self._files, self.source.model.device
        found = None if files is None else files.read(recipe, device)
        if found is None:
            found = self._sequential.refits(recipe, self.source.cut(recipe))
            if files is not None:
                files.write(recipe, found)

        def refit(state: dict[str, Tensor]) -> None:
            for site, tensors in found.items():
                prefix = self.source.family.layer_prefix(self.source.model, site.layer)
                state.update({f"{prefix}{name}": tensor for name, tensor in tensors.items()})

        return refit


class WithTrained(Weights):
    """The weights of recipes, those that were trained being read from where they are kept.

    Args:
        computed: the weights of all other recipes.
        read: returns the tensors that training changed, by their names in the smaller model, from
            the key of the weights; raises UsageError where they are missing.
    """

    KEPT = 2
    """Trained models whose tensors are kept: one is read several times in a row."""

    def __init__(self, computed: Weights, read: Callable[[str], dict[str, Tensor]]) -> None:
        self._computed = computed
        self.key = computed.key  # a recipe says itself which trained weights are its own
        self.source = computed.source
        self._read = lru_cache(self.KEPT)(read)

    def prepare(self, compensation: Compensation) -> None:
        """Prepare the other weights."""
        self._computed.prepare(compensation)

    def release(self) -> None:
        """Free what the other weights keep, and what was read."""
        self._computed.release()
        self._read.cache_clear()

    def state(self, recipe: Recipe) -> dict[str, Tensor]:
        """Computed, or cut and then as training left them.

        Raises UsageError where trained weights are missing, or are not those of the recipe's model.
        """
        if recipe.recovery is None:
            return self._computed.state(recipe)
        state, trained = self.source.cut(recipe), self._read(recipe.recovery)
        for name, tensor in rounded(trained, self.source.dtype).items():
            if name not in state or state[name].shape != tensor.shape:
                raise UsageError(
                    f"The trained weights {recipe.recovery[:12]} are not those of the recipe's "
                    f"model: {name} has another shape, or is not in it."
                )
            state[name] = tensor.to(state[name])
        return state


class Rounded(Weights):
    """Other weights as they are after they were written in another type, such as float16."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._weights, self._dtype = weights, dtype
        # A key may have the length of a checksum.
        both = f"{weights.key} {dtype}"
        self.key = hashlib.sha256(both.encode()).hexdigest() if weights.key else str(dtype)
        self.source = weights.source

    def prepare(self, compensation: Compensation) -> None:
        """Prepare the other weights."""
        self._weights.prepare(compensation)

    def release(self) -> None:
        """Free what the other weights keep."""
        self._weights.release()

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
    model: PreTrainedModel,
    recipe: Recipe,
    moments: Moments | None = None,
    sample: Sample | None = None,
) -> PreTrainedModel:
    """A smaller model in evaluation mode; the base is untouched and shares its unchanged tensors.

    Raises UsageError where the recipe does not fit the model, or compensates and what it needs for
    that was not passed: ``sample`` (:func:`axsearch.models.refit.sample.measure_sample`) where it
    is ``sequential``, otherwise ``moments``
    (:func:`axsearch.models.refit.moments.measure_moments`).
    """
    given = None if sample is None else lambda: sample
    return ClosedForm(Base(model), moments, given).shrink(recipe)
