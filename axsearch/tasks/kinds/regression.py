"""Regression: a number for one or two texts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from axsearch.errors import UsageError
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.kinds.base import Columns
from axsearch.tasks.kinds.labels import LabelHints, Labels, no_labels
from axsearch.tasks.kinds.sequences import (
    SequenceTask,
    TextExample,
    encode,
    is_fraction,
    is_missing,
    pair_up,
)
from axsearch.tasks.split import Split

NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


class Regression(SequenceTask[float]):
    """The answer is a number, from a head with one output."""

    name = "regression"
    metrics = ("pearson", "spearman")
    trivial_answer = "the mean"

    def recognises(self, table: datasets.Dataset, label_column: str | None) -> bool:
        """Whether some labels are fractions, or there are scores instead of labels."""
        label = label_column or self.label_column(table)
        if label not in table.column_names:
            return False
        return label == "score" or any(map(is_fraction, table[label][:]))

    def label_column(self, table: datasets.Dataset) -> str:
        """``score``, unless there is a ``label``."""
        found = super().label_column(table)
        return found if found in table.column_names else "score"

    def stratum(self, example: TextExample[float]) -> float:
        """The number."""
        return example.label

    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[TextExample[float]] | None:
        """Texts and their numbers; None for GLUE's test split, whose labels are all -1.

        Rows without a number are left out.
        """
        values = table[columns.label][:]
        numbers = [_number(value) for value in values]
        wrong = [
            value
            for value, number in zip(values, numbers, strict=True)
            if number is None and not is_missing(value)
        ]
        if wrong:
            raise UsageError(
                f"{source}: the {name} split has labels in column {columns.label!r} that are "
                f"not numbers ({len(wrong)} of {len(values)}, such as {wrong[0]!r})."
            )
        if set(numbers) == {-1.0} and name != "train":
            return None
        return pair_up(source, name, table, columns, numbers)

    def new_labels(
        self,
        train: Sequence[TextExample[float]],
        others: Sequence[TextExample[float]],
        hints: LabelHints | None = None,
    ) -> Labels:
        """No labels: a number has no classes."""
        return no_labels(self.name, hints)

    def head_config(self, labels: Labels) -> dict[str, Any]:
        """A head with one output."""
        return {"problem_type": "regression", "num_labels": 1}

    def labels(
        self,
        config: PreTrainedConfig,
        examples: Sequence[TextExample[float]],
        hints: LabelHints | None = None,
    ) -> Labels:
        """No labels; raises UsageError for a head with several outputs."""
        if config.num_labels != 1:
            raise UsageError(
                f"The model's head has {config.num_labels} classes, which does not fit "
                f'{self.name}; give `task="text-classification"`, or fine-tune with '
                "`axsearch finetune --task regression`."
            )
        return no_labels(self.name, hints)

    def split(
        self,
        name: str,
        examples: Sequence[TextExample[float]],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        labels: Labels,
    ) -> Split:
        """One feature per example; the targets are numbers, (examples,)."""
        inputs = encode(tokenizer, [example.texts for example in examples], length)
        targets = np.array([example.label for example in examples])
        return Split(name, inputs, targets, tokenizer.pad_token_id or 0)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared error."""
        answers = logits.squeeze(-1)
        return (answers - targets.to(answers.dtype)).square()

    def divergence(
        self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Half the squared difference: the divergence of two normal distributions of variance 1."""
        return (logits - base).squeeze(-1).square() / 2

    def decode(self, logits: torch.Tensor, split: Split, rows: NDArray[Any]) -> Sequence[float]:
        """The number itself."""
        numbers: list[float] = logits.squeeze(-1).tolist()
        return numbers

    def outcome(self, metric: str, split: Split, answers: Sequence[float]) -> Outcome:
        """Pairs of label and answer."""
        return Outcome(metric, np.stack((np.asarray(split.targets), np.asarray(answers)), axis=1))

    def trivial_answers(self, train: Split, split: Split) -> Iterable[Sequence[float]]:
        """The mean of train."""
        return [[float(np.mean(np.asarray(train.targets)))] * len(split)]


def _number(value: object) -> float | None:
    # Python reads more as numbers than a file means: true, 1_000, digits of other scripts.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
