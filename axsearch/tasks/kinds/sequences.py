"""Shared by the tasks that answer one thing about one or two texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import datasets
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from axsearch.errors import UsageError
from axsearch.tasks.kinds.base import Columns, TaskKind, feature_list, require_texts
from axsearch.tasks.split import Features, Split

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
)
"""Columns that are recognised as the text or the two texts; the first match wins."""

L = TypeVar("L")


class TextExample(NamedTuple, Generic[L]):
    """One or two texts, and the answer expected for them."""

    texts: tuple[str, ...]
    label: L


class SequenceTask(TaskKind[TextExample[L], Split]):
    """A label or a number for one or two texts."""

    head = "ForSequenceClassification"
    auto_class = AutoModelForSequenceClassification

    def columns(
        self,
        source: str,
        table: datasets.Dataset,
        text_columns: Sequence[str] | None,
        label_column: str | None,
    ) -> Columns:
        """The named columns, or the first of :data:`TEXT_COLUMNS` that exist."""
        label = label_column or self.label_column(table)
        if text_columns:
            return Columns(tuple(text_columns), label)
        for candidate in TEXT_COLUMNS:
            if set(candidate) <= set(table.column_names):
                return Columns(candidate, label)
        raise UsageError(
            f"{source} has none of the text columns axsearch recognises for {self.name}; it has "
            f"{', '.join(table.column_names)}: name them with `text_columns`."
        )

    def label_column(self, table: datasets.Dataset) -> str:
        """The column of the label if none is named."""
        return "label"

    def learnable(self, examples: Sequence[TextExample[L]]) -> bool:
        """Whether there are at least two labels."""
        return len({example.label for example in examples}) > 1


def pair_up(
    source: str,
    name: str,
    table: datasets.Dataset,
    columns: Columns,
    labels: Sequence[L | None],
) -> list[TextExample[L]]:
    """Texts with their labels; raises UsageError if one is missing or a text is not text."""
    texts = {column: table[column][:] for column in columns.texts}
    for column, values in texts.items():
        require_texts(source, name, column, values)
    rows = list(zip(*(texts[column] for column in columns.texts), strict=True))
    examples = [
        TextExample(row, label)
        for row, label in zip(rows, labels, strict=True)
        if label is not None and not any(text is None for text in row)
    ]
    missing = len(rows) - len(examples)
    if missing:
        raise UsageError(
            f"{source}: the {name} split has rows without a text or a label "
            f"({missing} of {len(rows)}); remove them."
        )
    return examples


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], length: int
) -> Features:
    """Token ids of each example's one or two texts, cut to ``length`` tokens, without padding."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=length)
    return feature_list(encoded, list(encoded.keys()))


def is_fraction(value: object) -> bool:
    """Whether a label is a number with a decimal fraction, as in regression."""
    text = str(value)
    return re.fullmatch(r"[+-]?\d*\.\d+", text) is not None and not float(text).is_integer()


def is_missing(value: Any) -> bool:
    """Whether a row has no label."""
    return value is None or value == "" or value != value
