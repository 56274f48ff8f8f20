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
from axsearch.tasks.kinds.base import Columns, refuse_lists_as_text
from axsearch.tasks.kinds.labels import (
    NO_GOLD,
    LabelHints,
    Labels,
    best_order,
    fit_labels,
    named_config,
    new_labels,
)
from axsearch.tasks.kinds.sequences import (
    SequenceTask,
    TextExample,
    encode,
    is_fraction,
    is_missing,
    label_name,
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
        """Whether there are labels, and none is a fraction or a list."""
        label = label_column or self.label_column(table)
        return label in table.column_names and not any(
            isinstance(value, list) or is_fraction(value) for value in table[label][:]
        )

    def classes(self, table: datasets.Dataset, columns: Columns) -> tuple[str, ...]:
        """The names of the column's class ids, if it has a type of ``datasets`` with names."""
        feature = table.features[columns.label]
        return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()

    def stratum(self, example: TextExample[str]) -> str:
        """The label."""
        return example.label

    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[TextExample[str]] | None:
        """Texts and the names of their labels; rows without one are left out.

        In a test split of -1 alone, as GLUE's are, no row has a label.
        """
        feature, values = table.features[columns.label], table[columns.label][:]
        where = f"{source}: the {name} split has labels in column {columns.label!r} that are"
        if isinstance(feature, datasets.ClassLabel):
            count = len(feature.names)
            if strays := [v for v in values if v is not None and not -1 <= v < count]:
                raise UsageError(
                    f"{where} not numbers of its {count} classes, such as {strays[0]}."
                )
            values = [None if value in (None, -1) else feature.names[value] for value in values]
        refuse_lists_as_text(source, name, columns.label, values)
        strange = [v for v in values if v is not None and not isinstance(v, str | int | float)]
        if strange:
            raise UsageError(
                f"{where} neither names nor numbers, such as {str(strange[0])[:60]!r}."
            )
        called = [None if is_missing(value) else label_name(value) for value in values]
        if name != "train" and set(called) == {NO_GOLD}:
            return None
        return pair_up(source, name, table, columns, called)

    def new_labels(
        self,
        train: Sequence[TextExample[str]],
        others: Sequence[TextExample[str]],
        hints: LabelHints | None = None,
    ) -> Labels:
        """All labels in alphabetical order, numbers by size."""
        return new_labels(
            [example.label for example in train],
            [example.label for example in others],
            hints or LabelHints(),
            lambda label: (len(label) if label.isdigit() else 0, label),
        )

    def head_config(self, labels: Labels) -> dict[str, Any]:
        """A head with the labels' names."""
        return {"problem_type": "single_label_classification", **named_config(labels)}

    def labels(
        self,
        config: PreTrainedConfig,
        examples: Sequence[TextExample[str]],
        hints: LabelHints | None = None,
    ) -> Labels:
        """The head's classes, see :func:`fit_labels`."""
        if config.num_labels == 1:
            raise UsageError(
                "The model's head gives one number, as for regression, which does not fit "
                f'{self.name}; give `task="regression"`, or fine-tune with `axsearch finetune`.'
            )
        return fit_labels(config, [example.label for example in examples], hints)

    def is_labelled(self, example: TextExample[str], labels: Labels) -> bool:
        """Whether the label is one of the head's classes; -1 may say that there is none."""
        return example.label in labels.ids

    def check_config(self, model: str, config: PreTrainedConfig) -> None:
        """Raises UsageError for a head that answers several labels at once."""
        if config.problem_type == "multi_label_classification":
            raise UsageError(
                f"{model} has a head for multi-label-classification (several labels at once, "
                f"problem_type in its config), which does not fit {self.name}; give data with "
                "lists of labels, or fine-tune it with `axsearch finetune`."
            )

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

    def reordered(
        self, split: Split, answers: Sequence[int], rows: Sequence[int]
    ) -> tuple[list[int], Sequence[int]]:
        """The order that fits the labels best."""
        labels = np.asarray(split.targets)[rows]
        order = best_order(np.asarray(answers)[rows], labels, len(split.names))
        return order, [order[answer] for answer in answers]

    def trivial_answers(self, train: Split, split: Split) -> Iterable[Sequence[int]]:
        """Each class in turn, for every example; for accuracy the most frequent one is the best."""
        return ([label] * len(split) for label in range(len(split.names)))
