"""Multi-label classification: none, one or several classes for one or two texts."""

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
from axsearch.tasks.kinds.base import Columns, word_column
from axsearch.tasks.kinds.labels import (
    NO_GOLD,
    LabelHints,
    Labels,
    fit_labels,
    named_config,
    new_labels,
)
from axsearch.tasks.kinds.sequences import (
    LABEL_COLUMNS,
    LABEL_NAMES,
    SequenceTask,
    TextExample,
    encode,
    is_missing,
    label_name,
    pair_up,
)
from axsearch.tasks.split import Split

NO, YES = ("0", "0.0", "False", "false"), ("1", "1.0", "True", "true")
"""How a column of its own says that a label is absent or there."""

Several = tuple[str, ...]


class MultiLabelClassification(SequenceTask[Several]):
    """The answer is every class whose logit is above 0: a probability above one half.

    Micro F1 counts labels over all examples, macro F1 is the mean of the F1 of each class.
    """

    name = "multi-label-classification"
    metrics = ("micro_f1", "macro_f1")
    trivial_answer = "the same labels for all"

    def recognises(self, table: datasets.Dataset, label_column: str | None) -> bool:
        """Whether labels are lists, or several columns of 0 and 1 stand in the place of a label."""
        label = label_column or self.label_column(table)
        if label in table.column_names:
            there = word_column(table) is not None
            return not there and any(isinstance(value, list) for value in table[label][:])
        if label_column is not None:
            return "," in label_column
        others = {name.lower() for name in table.column_names} & LABEL_NAMES
        return not others and len(_switches(table)) > 1

    def label_columns(self, columns: Columns) -> tuple[str, ...]:
        """The columns of 0 and 1, or the one with lists."""
        return tuple(columns.label.split(","))

    def columns(
        self,
        source: str,
        table: datasets.Dataset,
        text_columns: Sequence[str] | None,
        label_column: str | None,
    ) -> Columns:
        """As of other texts; whether lists are 0 or 1 for each class is decided for all splits."""
        found = super().columns(source, table, text_columns, label_column)
        if found.label not in table.column_names:
            return found
        return found._replace(switches=_are_switches(table[found.label][:]))

    def label_column(self, table: datasets.Dataset) -> str:
        """The column with lists, or those of 0 and 1 with commas between them."""
        found = super().label_column(table)
        if found in table.column_names:
            return found
        return ",".join(_switches(table)) or LABEL_COLUMNS[0]

    def classes(self, table: datasets.Dataset, columns: Columns) -> tuple[str, ...]:
        """The names of the lists' class ids, if they have a type of ``datasets`` with names."""
        own = self.label_columns(columns)
        if len(own) > 1:
            return own
        feature = getattr(table.features[columns.label], "feature", None)
        return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()

    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[TextExample[Several]] | None:
        """Texts and the names of their labels, sorted; rows whose labels are missing are left out.

        Lists hold names or ids of classes, or a 0 or 1 for each class.
        """
        own = self.label_columns(columns)
        if len(own) > 1:
            labels = _of_columns(source, name, table, own)
        else:
            labels = _of_lists(source, name, table[columns.label][:], columns)
            names = self.classes(table, columns)
            if names:
                labels = [_named(source, name, names, one) for one in labels]
        return pair_up(source, name, table, columns, labels)

    def new_labels(
        self,
        train: Sequence[TextExample[Several]],
        others: Sequence[TextExample[Several]],
        hints: LabelHints | None = None,
    ) -> Labels:
        """All labels in the order of the data's classes, or in alphabetical order."""
        hints = hints or LabelHints()
        order = {label: (index, "") for index, label in enumerate(hints.classes)}
        return new_labels(
            _all(train),
            _all(others),
            hints,
            lambda label: order.get(label, (len(label) if label.isdigit() else 0, label)),
        )

    def head_config(self, labels: Labels) -> dict[str, Any]:
        """A head with the labels' names, each with a probability of its own."""
        return {"problem_type": "multi_label_classification", **named_config(labels)}

    def labels(
        self,
        config: PreTrainedConfig,
        examples: Sequence[TextExample[Several]],
        hints: LabelHints | None = None,
    ) -> Labels:
        """The head's classes, see :func:`fit_labels`."""
        return fit_labels(config, _all(examples), hints)

    def is_labelled(self, example: TextExample[Several], labels: Labels) -> bool:
        """Whether the head has all of its labels."""
        return all(label in labels.ids for label in example.label)

    def check_config(self, model: str, config: PreTrainedConfig) -> None:
        """Raises UsageError for a head that answers one class, or one number."""
        if config.problem_type != "multi_label_classification":
            raise UsageError(
                f"{model} has a head for one answer (problem_type in its config is "
                f"{config.problem_type}), which does not fit {self.name}, several labels at once; "
                "fine-tune it with `axsearch finetune`, or, if it answers several, write "
                "multi_label_classification there."
            )

    def split(
        self,
        name: str,
        examples: Sequence[TextExample[Several]],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        labels: Labels,
    ) -> Split:
        """One feature per example; the targets are 0 or 1 for each class, (examples, classes)."""
        inputs = encode(tokenizer, [example.texts for example in examples], length)
        targets = np.zeros((len(examples), len(labels.names)), np.float32)
        for row, example in enumerate(examples):
            targets[row, [labels.ids[label] for label in example.label]] = 1
        return Split(name, inputs, targets, tokenizer.pad_token_id or 0, labels.names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over classes of the binary cross entropy, as in transformers."""
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        )
        return each.mean(-1)

    def label_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum over classes, as of the divergence."""
        return self.losses(logits, targets) * logits.shape[-1]

    def divergence(
        self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """The sum over classes of the divergences of yes and no, in nats."""
        found = torch.zeros_like(base)
        for sign in (1, -1):
            log_sigmoid = torch.nn.functional.logsigmoid
            ours, theirs = log_sigmoid(sign * logits), log_sigmoid(sign * base)
            found = found + theirs.exp() * (theirs - ours)
        return found.sum(-1)

    def decode(
        self, logits: torch.Tensor, split: Split, rows: NDArray[Any]
    ) -> Sequence[tuple[int, ...]]:
        """The ids of the classes whose logit is above 0."""
        return [tuple(map(int, np.flatnonzero(row))) for row in (logits > 0).cpu().numpy()]

    def outcome(self, metric: str, split: Split, answers: Sequence[Sequence[int]]) -> Outcome:
        """For each example how many labels are right, answered and there; of each class for macro.

        The columns of macro F1 are label and answer of each class, (examples, 2 x classes).
        """
        there = np.asarray(split.targets) > 0
        said = np.zeros_like(there)
        for row, answer in enumerate(answers):
            said[row, list(answer)] = True
        if metric == "macro_f1":
            return Outcome("multi_label_macro_f1", np.hstack((there, said)).astype(np.int8))
        counts = [(there & said).sum(1), said.sum(1), there.sum(1)]
        return Outcome("entity_f1", np.stack(counts, axis=1).astype(np.int32))

    def trivial_answers(self, train: Split, split: Split) -> Iterable[Sequence[tuple[int, ...]]]:
        """The labels that are most frequent in train: one, two and so on up to all of them."""
        order = np.argsort(-np.asarray(train.targets).sum(axis=0), kind="stable")
        answers = (tuple(map(int, order[:count])) for count in range(1, len(order) + 1))
        return ([answer] * len(split) for answer in answers)


def _all(examples: Sequence[TextExample[Several]]) -> list[str]:
    return sorted({label for example in examples for label in example.label})


def _switches(table: datasets.Dataset) -> list[str]:
    """The columns that hold 0 and 1 alone."""
    return [
        name
        for name in table.column_names
        if (values := set(map(str, table[name][:]))) <= {*NO, *YES} and values
    ]


def _of_columns(
    source: str, name: str, table: datasets.Dataset, columns: Sequence[str]
) -> list[Several | None]:
    """The columns that say yes; rows with -1, as in test sets that hide their labels, have none."""
    values = {column: table[column][:] for column in columns}
    for column, found in values.items():
        strange = [v for v in found if not _is_hidden(v) and str(v) not in (*NO, *YES)]
        if strange:
            raise UsageError(
                f"{source}: the {name} split has labels in column {column!r} that are not 0 or 1, "
                f"such as {str(strange[0])[:60]!r}."
            )
    return [
        None
        if any(map(_is_hidden, row))
        else tuple(sorted(c for c, v in zip(columns, row, strict=True) if str(v) in YES))
        for row in zip(*values.values(), strict=True)
    ]


def _is_hidden(value: Any) -> bool:
    return is_missing(value) or label_name(value) == NO_GOLD


def _are_switches(values: Sequence[Any]) -> bool:
    """Whether lists hold a 0 or 1 for each class: a list of ids has none twice and no fractions."""
    given = [value for value in values if isinstance(value, list)]
    sizes = {len(value) for value in given}
    return (
        len(sizes) == 1
        and max(sizes) > 1
        and all(str(one) in (*NO, *YES) for value in given for one in value)
        and any(len(set(v)) < len(v) or isinstance(v[0], float | bool) for v in given)
    )


def _of_lists(source: str, name: str, values: list[Any], columns: Columns) -> list[Several | None]:
    """The labels of lists of names or ids, or of a 0 or 1 for each class."""
    wrong = [
        value
        for value in values
        if value is not None
        and (
            not isinstance(value, list)
            or not all(isinstance(one, str | int | float) and not is_missing(one) for one in value)
            or (columns.switches and not all(str(one) in (*NO, *YES) for one in value))
        )
    ]
    if wrong:
        form = "a 0 or 1 for each class" if columns.switches else "names or numbers"
        raise UsageError(
            f"{source}: the {name} split has labels in column {columns.label!r} that are not lists "
            f"of {form}, such as {str(wrong[0])[:60]!r}."
        )
    return [
        None if value is None or value == [int(NO_GOLD)] else _labels(value, columns.switches)
        for value in values
    ]


def _labels(value: list[Any], switches: bool) -> Several:
    if switches:
        return tuple(str(place) for place, one in enumerate(value) if str(one) in YES)
    return tuple(sorted({label_name(one) for one in value}))


def _named(source: str, name: str, names: Sequence[str], labels: Several | None) -> Several | None:
    if labels is None:
        return None
    strange = [one for one in labels if one.isdecimal() and int(one) >= len(names)]
    if strange or NO_GOLD in labels:
        raise UsageError(
            f"{source}: the {name} split has labels that are not numbers of its {len(names)} "
            f"classes, such as {(*strange, NO_GOLD)[0]}."
        )
    return tuple(sorted(names[int(one)] if one.isdecimal() else one for one in labels))
