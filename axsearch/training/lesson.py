"""What a smaller model learns from: texts, their labels, and what the base makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from axsearch.approximations.site import ONE_TOKEN
from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import NonFiniteError, Predictor
from axsearch.evaluation.bfloat16 import is_fast, lowered
from axsearch.models.partial import hidden_of
from axsearch.space.recipe import EXACT, Recipe
from axsearch.tasks.split import IGNORED, Split
from axsearch.tasks.task import Task

HELD_SHARE = 0.1
MOST_HELD = 1_000
FEWEST_HELD = 32
"""Examples of train that nothing is learnt from: a share, and at most and at least how many."""

MOST_HIDDEN = 1 << 30
"""Bytes of the teacher's hidden states."""


@dataclass(frozen=True)
class Lesson:
    """What one model learns from, read by its own tokenizer.

    Attributes:
        train: what is learnt from.
        held: the part of train that says which weights are best.
        outputs: the base's logits for each feature of both, those of ``train`` first.
        labelled: whether what is expected of a feature of ``train`` is known, (features,): it is
            not of more texts.
        hidden: of the base after each layer in ``layers``, for the token that the head reads,
            (features of ``train``, layers, width), bfloat16; None where heads read more tokens.
        layers: numbers of layers in the base.
    """

    train: Split
    held: Split
    outputs: list[Tensor]
    labelled: Tensor
    hidden: Tensor | None = None
    layers: tuple[int, ...] = ()

    def taught(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """The teacher's outputs for some features of ``train``, as a batch has them."""
        found = {
            "taught": _padded([self.outputs[row] for row in rows]),
            "labelled": self.labelled[torch.from_numpy(rows)],
        }
        if self.hidden is None:
            return found
        lengths = torch.from_numpy(self.train.lengths[rows])
        return {**found, "hidden": self.hidden[rows], "lengths": lengths}

    def held_taught(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Those for some features of ``held``."""
        first = len(self.train)
        return _padded([self.outputs[first + row] for row in rows]).to(device)


class Teacher:
    """The base, whose outputs are computed once for all models that learn from it.

    Args:
        task: model and data.
        device: where the base runs.
        seed: of the examples that are held.
        unlabelled: a file of more texts to learn from, see :meth:`Source.unlabelled`.

    Raises:
        UsageError: too few examples, or the file cannot be used.
    """

    def __init__(
        self, task: Task, device: str, seed: int = 0, unlabelled: str | None = None
    ) -> None:
        self._task, self._device = task, device
        examples = task.source.labelled
        count = min(MOST_HELD, max(FEWEST_HELD, round(HELD_SHARE * len(examples))))
        if len(examples) < 2 * count:
            raise UsageError(
                f"{task.data_name} has {len(examples)} training examples, too few to train on; a "
                f"recovery needs at least {2 * FEWEST_HELD}."
            )
        drawn = np.random.default_rng(seed).permutation(len(examples))[:count]
        held = np.zeros(len(examples), bool)
        held[drawn] = True
        learnt, kept = (
            [one for one, there in zip(examples, held, strict=True) if there == wanted]
            for wanted in (False, True)
        )
        more = [] if unlabelled is None else task.source.unlabelled(unlabelled)
        self._parts, self._labelled = (learnt + more, kept), len(learnt)
        self._own: Lesson | None = None

    @property
    def fingerprint(self) -> str:
        """Of what is learnt from, as the base reads it."""
        return f"{self._whole.train.fingerprint} {self._whole.held.fingerprint}"

    def lesson(self, recipe: Recipe) -> Lesson:
        """What the model of a recipe learns from."""
        whole = self._whole
        if recipe.vocabulary is None:
            return whole
        own = self._read(recipe)
        targets = [list(split.targets) for split in own]
        before = [list(split.targets) for split in (whole.train, whole.held)]
        every = zip(whole.outputs, before[0] + before[1], targets[0] + targets[1], strict=True)
        train, held = own
        return replace(
            whole,
            train=train,
            held=held,
            outputs=[_moved(*one) for one in every],
            labelled=self._known(train),
        )

    def _read(self, recipe: Recipe) -> tuple[Split, Split]:
        source, tokenizer = self._task.source, self._task.tokenizer_of(recipe)
        train, held = (source.split("train", part, tokenizer) for part in self._parts)
        return train, held

    def _known(self, train: Split) -> Tensor:
        return torch.from_numpy(train.owners < self._labelled)

    @property
    def _whole(self) -> Lesson:
        """The lesson as the base reads it."""
        if self._own is None:
            train, held = self._read(EXACT)
            layers = self._layers(len(train))
            outputs, hidden = self._answers(train, layers)
            more, _ = self._answers(held, ())
            self._own = Lesson(
                train,
                held,
                [*outputs, *more],
                self._known(train),
                hidden if layers else None,
                layers,
            )
        return self._own

    def _layers(self, features: int) -> tuple[int, ...]:
        """The layers whose hidden states are kept: all, or, from the top, those that fit.

        That does not depend on the memory of this moment, or a resumed training would be another.
        """
        base = self._task.base
        reads_one = any(not site.refusal((ONE_TOKEN,)) for site in base.sites.values())
        if base.repeats or not reads_one:
            return ()
        count = len(base.layers(base.model))
        fit = MOST_HIDDEN // (features * base.model.config.hidden_size * 2)
        return tuple(range(max(0, count - fit), count))

    def _answers(self, split: Split, layers: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
        """The base's logits, feature by feature, and its hidden states, as a lesson has them."""
        base, model = self._task.base, self._task.model
        found: list[Tensor] = [torch.empty(0)] * len(split)
        width = model.config.hidden_size if layers else 0
        hidden = torch.empty(len(split), len(layers), width, dtype=torch.bfloat16)

        def see(rows: NDArray[np.int64], logits: Tensor, _: Tensor) -> None:
            lengths = torch.from_numpy(split.lengths[rows]).to(logits.device)
            for place, states in enumerate(seen):
                own = read_token(states, lengths, base.family.reads)
                hidden[rows, place] = own.to("cpu", torch.bfloat16)
            for row, answer in zip(rows, logits.cpu(), strict=True):
                # A copy: a view would keep its whole batch.
                whole = answer.ndim == 1
                found[row] = (answer if whole else answer[: split.lengths[row]]).clone()

        predictor = Predictor(self._task.kind, self._device, memory=0)
        with watched([base.layers(model)[layer] for layer in layers]) as seen:
            try:
                half = lowered(model) if is_fast(self._device) else None
                predictor.run(model, split, see, half=half)
            except NonFiniteError:
                predictor.run(model, split, see)  # as an evaluation does
        return found, hidden


@contextmanager
def watched(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """While open, the last outputs of these layers, (rows, tokens, width) each."""
    seen = [torch.empty(0)] * len(layers)
    hooks = [
        layer.register_forward_hook(partial(_see, seen, number))
        for number, layer in enumerate(layers)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _see(seen: list[Tensor], number: int, _: nn.Module, inputs: Any, output: Any) -> None:
    seen[number] = hidden_of(output)


def read_token(states: Tensor, lengths: Tensor, reads: int) -> Tensor:
    """The hidden states of the token that a head reads, (rows, width).

    Args:
        states: after a layer, (rows, tokens, width); of a narrowed layer with that token alone.
        lengths: tokens of each row, (rows,).
        reads: see :attr:`Architecture.reads`.
    """
    if reads == 0 or states.shape[1] == 1:
        return states[:, 0]
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def _padded(rows: list[Tensor]) -> Tensor:
    """Outputs of features as a batch; those for padding have no effect on a divergence."""
    return torch.stack(rows) if rows[0].ndim == 1 else pad_sequence(rows, batch_first=True)


def _moved(output: Tensor, before: Any, now: Any) -> Tensor:
    """A feature's outputs at the places where another tokenizer has its words.

    Outputs of a whole feature stay. A word that only one of the two still reads is left out by its
    target, or has the outputs of no word.
    """
    if output.ndim == 1:
        return output
    found = output.new_zeros(len(now), output.shape[1])
    places = [np.flatnonzero(np.asarray(targets) != IGNORED) for targets in (before, now)]
    count = min(map(len, places))
    found[places[1][:count]] = output[places[0][:count]]
    return found
