"""Shared by the tasks that answer one thing about one or two texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import datasets
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from axsearch.errors import UsageError
from axsearch.tasks.kinds.base import Columns, TaskKind, feature_list, require_texts
from axsearch.tasks.kinds.labels import NO_GOLD
from axsearch.tasks.split import Features, Split

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text",),
    ("sentence",),
)
"""Columns that are recognised as the text or the two texts; the first match wins."""

ADDED_COLUMNS = (
    ("query", "passage"),
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
"""Those of them that version 0.1 did not recognise."""

FEWEST_WORDS = 4
"""Words that texts have on average, and names of columns do not."""

LABEL_COLUMNS = ("label", "labels")

LABEL_NAMES = {
    *LABEL_COLUMNS, "score", "target", "class", "category", "rating", "stars", "sentiment",
    "answers", "tags", "ner_tags", "label_text", "coarse_label", "fine_label", "gold_label",
}  # fmt: skip
"""Names that answers have in most data."""

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
        if text_columns and len(text_columns) > 2:
            raise UsageError(
                f"{self.name} reads one or two texts, not the {len(text_columns)} of "
                f"`text_columns`: {', '.join(text_columns)}."
            )
        if text_columns:
            return Columns(tuple(text_columns), label)
        for candidate in TEXT_COLUMNS:
            if set(candidate) <= set(table.column_names):
                return Columns(candidate, label)
        data = next((n for n in table.column_names if len(n.split()) >= FEWEST_WORDS), None)
        if data is not None:
            raise UsageError(
                f"{source} has a column called {data[:60]!r}, which looks like a row of the data: "
                "the first line of a table must hold the names of its columns, such as text,label."
            )
        raise UsageError(
            f"{source} has none of the text columns axsearch recognises for {self.name}; it has "
            f"{', '.join(table.column_names)}: name them with `text_columns`."
        )

    def label_column(self, table: datasets.Dataset) -> str:
        """The column of the label if none is named: the first of :data:`LABEL_COLUMNS`."""
        there = (column for column in LABEL_COLUMNS if column in table.column_names)
        return next(there, LABEL_COLUMNS[0])

    def learnable(self, examples: Sequence[TextExample[L]]) -> bool:
        """Whether there are at least two labels."""
        return len({example.label for example in examples}) > 1

    def lengths(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[TextExample[L]]
    ) -> Sequence[int]:
        """The tokens of the one or two texts of each example."""
        texts = [example.texts for example in examples]
        return [len(one["input_ids"]) for one in encode(tokenizer, texts, None)]


def earlier_columns(table: datasets.Dataset) -> tuple[str, ...] | None:
    """The columns that version 0.1 recognised as texts; None where there are none."""
    known = (candidate for candidate in TEXT_COLUMNS if candidate not in ADDED_COLUMNS)
    return next((own for own in known if set(own) <= set(table.column_names)), None)


def pair_up(
    source: str,
    name: str,
    table: datasets.Dataset,
    columns: Columns,
    labels: Sequence[L | None],
) -> list[TextExample[L]] | None:
    """Texts with their labels; None if no row has a label, rows without one are left out.

    Raises UsageError if a text is missing or not text.
    """
    texts = {column: table[column][:] for column in columns.texts}
    for column, values in texts.items():
        require_texts(source, name, column, values)
    rows = list(zip(*(texts[column] for column in columns.texts), strict=True))
    missing = sum(any(text is None for text in row) for row in rows)
    if missing:
        raise UsageError(
            f"{source}: the {name} split has rows without a text ({missing} of {len(rows)}); "
            "remove them."
        )
    pairs = zip(rows, labels, strict=True)
    return [TextExample(row, label) for row, label in pairs if label is not None] or None


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], length: int | None
) -> Features:
    """Token ids of each example's one or two texts, without padding.

    They are cut to ``length`` tokens; None cuts nothing.
    """
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=length is not None, max_length=length)
    return feature_list(encoded, list(encoded.keys()))


def is_fraction(value: object) -> bool:
    """Whether a label is a number with a decimal fraction, as in regression."""
    text = str(value)
    return re.fullmatch(r"[+-]?\d*\.\d+", text) is not None and not float(text).is_integer()


def label_name(value: str | int | float) -> str:
    """What a label is called: a whole number in the same way, in JSON however it is written.

    Of a text only -1, no gold label, is: pandas writes -1.0 where a column was one of numbers.
    """
    if isinstance(value, str):
        return NO_GOLD if re.fullmatch(rf"\s*{NO_GOLD}(\.0*)?\s*", value) else value
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def is_missing(value: Any) -> bool:
    """Whether a row has no label."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
