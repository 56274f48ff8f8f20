"""Run a model over a split, from the lowest layer that was not run before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from axsearch.errors import AxsearchError
from axsearch.evaluation.bfloat16 import lowered, settle
from axsearch.models.base_model import Base
from axsearch.models.partial import prefixes_of, starting
from axsearch.space.recipe import Recipe
from axsearch.system.memory import TensorCache, budget
from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.split import Batch, Split

BATCH_SIZE = 64

SPLITS = 32
"""Splits, and parts of them, whose padded batches are kept."""


class NonFiniteError(AxsearchError):
    """The model computed NaN or infinity; the trial fails."""


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for a split, feature by feature in the split's order.

    Attributes:
        answers: as the task's kind decodes them.
        losses: the loss of each feature, (features,), float32.
    """

    answers: Sequence[Any]
    losses: NDArray[np.float32]


OnBatch = Callable[[NDArray[np.int64], Tensor, Tensor], None]
"""Receives a batch's features, (features,), their logits and their targets."""


def predict(
    model: PreTrainedModel, split: Split, kind: TaskKind[Any, Any], *, device: str = "cpu"
) -> Sequence[Any]:
    """The model's answer for every feature, in the split's order, as ``kind`` decodes it.

    Batches are bucketed by length, with fewer rows of long inputs, and always the same for a split,
    so the same model has the same answers. Raises NonFiniteError where a logit is not finite.
    """
    return Predictor(kind, device, memory=0).predict(model, split).answers


class Predictor:
    """Runs the smaller models of one base, and caches the outputs of their layers.

    The output of a layer depends only on the choices in it and below it. A recipe that makes the
    same choices as a recent one in its lowest layers starts above them, from the very numbers that
    these layers computed then.

    Args:
        kind: the kind of task.
        device: where the models are.
        memory: bytes for outputs of layers; None for a quarter of the device's free memory, at most
            2 GiB.

    Attributes:
        layers_run: how many layers were run over a feature so far, summed over features; counted
            where the base is known.
    """

    def __init__(
        self, kind: TaskKind[Any, Any], device: str = "cpu", memory: int | None = None
    ) -> None:
        self.kind = kind
        self.device = device
        self.layers_run = 0
        self._outputs: TensorCache[tuple[str, int, str], Any] = TensorCache(
            _room(device) if memory is None else memory
        )
        self._lowered: WeakKeyDictionary[PreTrainedModel, Mapping[str, Tensor]] = (
            WeakKeyDictionary()
        )
        self._batches: LRUCache[str, list[tuple[NDArray[np.int64], Batch, Tensor]]]
        self._batches = LRUCache(SPLITS)

    def predict(
        self,
        model: PreTrainedModel,
        split: Split,
        base: Base | None = None,
        recipe: Recipe | None = None,
        *,
        dtype: str = "float32",
    ) -> Predictions:
        """The model's answers for every feature; the first arguments are those of :meth:`run`.

        In ``bfloat16`` the answers are still those of float32, see
        :mod:`axsearch.evaluation.bfloat16`, and losses are nearly so. A model whose numbers are
        not finite in it is run in float32.
        """
        answers: list[Any] = [None] * len(split)
        losses = np.empty(len(split), np.float32)
        margins = np.empty(len(split), np.float32)
        whole: list[Tensor] = [torch.empty(0)] * len(split)

        def see(rows: NDArray[np.int64], logits: Tensor, targets: Tensor) -> None:
            losses[rows] = self.kind.losses(logits, targets).cpu().numpy()
            for row, answer in zip(rows, self.kind.decode(logits, split, rows), strict=True):
                answers[row] = answer

        def see_half(rows: NDArray[np.int64], logits: Tensor, targets: Tensor) -> None:
            see(rows, logits, targets)
            margins[rows] = self.kind.margins(logits, targets).cpu().numpy()
            for row, own in zip(rows, logits, strict=True):
                whole[row] = _unpadded(own, split, row)

        def again(rows: NDArray[np.int64]) -> list[Tensor]:
            found: dict[int, Tensor] = {}
            for part in split.groups(rows, BATCH_SIZE):
                batch, targets = self._placed(split.collate(part), split.collate_targets(part))
                logits = self._logits(model, batch)
                see(part, logits, targets)
                for row, own in zip(part, logits, strict=True):
                    found[row] = _unpadded(own, split, row)
            self.layers_run += len(rows) * (0 if base is None else len(base.layers(model)))
            return [found[row] for row in rows]

        if dtype != "float32":
            try:
                self.run(model, split, see_half, base, recipe, half=self._half(model))
                with torch.inference_mode():
                    settle(whole, margins, again)
            except NonFiniteError:
                dtype = "float32"  # where numbers may well be finite
        if dtype == "float32":
            self.run(model, split, see, base, recipe)
        return Predictions(answers, losses)

    def _half(self, model: PreTrainedModel) -> Mapping[str, Tensor]:
        # Once a model, which is run stage by stage.
        if model not in self._lowered:
            self._lowered[model] = lowered(model)
        return self._lowered[model]

    def run(
        self,
        model: PreTrainedModel,
        split: Split,
        see: OnBatch,
        base: Base | None = None,
        recipe: Recipe | None = None,
        half: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Run a model over a split, batch by batch.

        With ``base`` and ``recipe``, of which the model was made, layers that were run before are
        not run again. With ``half`` its parameters are these instead. Raises NonFiniteError where a
        logit is not finite.
        """
        dtype = "float32" if half is None else "bfloat16"
        prefixes = [] if base is None or recipe is None else prefixes_of(base, recipe, dtype)
        layers = 0 if base is None else len(base.layers(model))
        with torch.inference_mode():
            for number, (rows, batch, targets) in enumerate(self._collated(split)):
                place = (split.fingerprint, number)
                start = self._start(place, prefixes)
                with self._from(base, model, place, prefixes, start):
                    logits = self._logits(model, batch, half)
                see(rows, logits, targets)
                self.layers_run += len(rows) * (layers - start)

    def _logits(
        self, model: PreTrainedModel, batch: Batch, half: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        outputs = model(**batch) if half is None else functional_call(model, dict(half), (), batch)
        logits = self.kind.logits(outputs).float()
        if not torch.isfinite(logits).all():
            raise NonFiniteError("The model's logits are not finite.")
        return logits

    def _collated(self, split: Split) -> list[tuple[NDArray[np.int64], Batch, Tensor]]:
        # Padded once a split, not once a recipe.
        if split.fingerprint not in self._batches:
            self._batches[split.fingerprint] = [
                (rows, *self._placed(batch, split.collate_targets(rows)))
                for rows, batch in split.batches(BATCH_SIZE)
            ]
        return self._batches[split.fingerprint]

    def _placed(self, batch: Batch, targets: Tensor) -> tuple[Batch, Tensor]:
        on_device = {name: tensor.to(self.device) for name, tensor in batch.items()}
        return on_device, targets.to(self.device)

    def _start(self, place: tuple[str, int], prefixes: Sequence[str]) -> int:
        # The last layer's output would serve only the very same recipe, which is not run again.
        for layer in range(len(prefixes) - 2, -1, -1):
            if self._outputs.get((*place, prefixes[layer])) is not None:
                return layer + 1
        return 0

    @contextmanager
    def _from(
        self,
        base: Base | None,
        model: PreTrainedModel,
        place: tuple[str, int],
        prefixes: Sequence[str],
        start: int,
    ) -> Iterator[None]:
        if base is None or not prefixes:
            yield
            return
        hooks, layers = [], base.layers(model)
        given = self._outputs.get((*place, prefixes[start - 1])) if start else None
        for number in range(start, len(prefixes) - 1):
            keep = partial(self._keep, (*place, prefixes[number]))
            hooks.append(layers[number].register_forward_hook(keep))
        try:
            with starting(base, model, start, given):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, key: tuple[str, int, str], _: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[key] = output


def _room(device: str) -> int:
    cuda = device.startswith("cuda")
    return budget(free=torch.cuda.mem_get_info(device)[0] if cuda else None)


def _unpadded(logits: Tensor, split: Split, row: int) -> Tensor:
    """A feature's logits without those of the tokens that fill its batch."""
    return logits[: split.lengths[row]] if logits.ndim > 1 else logits
