"""Text classification: one of several classes for one or two texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from axsearch.errors import UsageError
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.kinds.base import Columns, Labels, check_known, fit_labels, named_config
from axsearch.tasks.kinds.sequences import (
    SequenceTask,
    TextExample,
    encode,
    is_fraction,
    is_missing,
    pair_up,
)
from axsearch.tasks.split import Split


class TextClassification(SequenceTask[str]):
    """The answer is a class. F1 is the positive class's of two, as in GLUE, otherwise the mean."""

    name = "text-classification"
    metrics = ("accuracy", "f1", "matthews_correlation")
    trivial_answer = "one class for all"
    largest_logit = True

    def recognises(self, table: datasets.Dataset, label_column: str | None) -> bool:
        """Whether there are labels, and none is a fraction."""
        label = label_column or "label"
        return label in table.column_names and not any(map(is_fraction, table[label][:]))

    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[TextExample[str]] | None:
        """Texts and the names of their labels; None for GLUE's test splits, all -1."""
        feature, values = table.features[columns.label], table[columns.label][:]
        where = f"{source}: the {name} split has labels in column {columns.label!r} that are"
        if isinstance(feature, datasets.ClassLabel):
            count = len(feature.names)
            if strays := [v for v in values if v is not None and not -1 <= v < count]:
                raise UsageError(
                    f"{where} not numbers of its {count} classes, such as {strays[0]}."
                )
            values = [None if value in (None, -1) else feature.names[value] for value in values]
            if set(values) == {None}:
                return None
        strange = [v for v in values if v is not None and not isinstance(v, str | int | float)]
        if strange:
            raise UsageError(
                f"{where} neither names nor numbers, such as {str(strange[0])[:60]!r}."
            )
        return pair_up(source, name, table, columns, [_called(value) for value in values])

    def new_labels(
        self, train: Sequence[TextExample[str]], others: Sequence[TextExample[str]]
    ) -> Labels:
        """The labels of train in alphabetical order, numbers by size."""
        found = {example.label for example in train}
        check_known(found, {example.label for example in others})
        return Labels.of(sorted(found, key=lambda n: (len(n) if n.isdigit() else 0, n)))

    def head_config(self, labels: Labels) -> dict[str, Any]:
        """A head with the labels' names."""
        return {**named_config(labels), "problem_type": "single_label_classification"}

    def labels(self, config: PreTrainedConfig, examples: Sequence[TextExample[str]]) -> Labels:
        """The head's names; numbers are class ids, unless the head's names are numbers."""
        if config.num_labels == 1:
            raise UsageError(
                "The model's head gives one number, as for regression, which does not fit "
                f'{self.name}; give `task="regression"`, or fine-tune with `axsearch finetune`.'
            )
        return fit_labels(config, [example.label for example in examples])

    def split(
        self,
        name: str,
        examples: Sequence[TextExample[str]],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        labels: Labels,
    ) -> Split:
        """One feature per example; the targets are class ids, (examples,)."""
        inputs = encode(tokenizer, [example.texts for example in examples], length)
        targets = np.array([labels.ids[example.label] for example in examples])
        return Split(name, inputs, targets, tokenizer.pad_token_id or 0, labels.names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy."""
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    def decode(self, logits: torch.Tensor, split: Split, rows: NDArray[Any]) -> Sequence[int]:
        """The most likely class."""
        classes: list[int] = logits.argmax(-1).tolist()
        return classes

    def outcome(self, metric: str, split: Split, answers: Sequence[int]) -> Outcome:
        """Right or wrong, or pairs of label and answer if the metric is not a mean."""
        labels, answered = np.asarray(split.targets), np.asarray(answers)
        if metric == "accuracy":
            return Outcome("mean", labels == answered)
        statistic = "macro_f1" if metric == "f1" and len(split.names) > 2 else metric
        return Outcome(statistic, np.stack((labels, answered), axis=1).astype(np.int32))

    def trivial_answers(self, train: Split, split: Split) -> Iterable[Sequence[int]]:
        """Each class in turn, for every example; for accuracy the most frequent one is the best."""
        return ([label] * len(split) for label in range(len(split.names)))


def _called(value: object) -> str | None:
    """The name of a label; None if there is none."""
    if is_missing(value):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
