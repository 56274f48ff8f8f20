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

LOOKED_AT = 100
"""Rows whose words are counted."""

TEXT_NAMES = {
    "text", "sentence", "text_pair", "text_a", "text_b", "text1", "text2", "sentence1", "sentence2",
    "sentence_a", "sentence_b", "question", "question1", "question2", "premise", "hypothesis",
    "query", "passage", "document", "context", "title", "body", "content", "review", "comment",
    "comment_text", "message",
}  # fmt: skip
"""Names that texts have in most data."""

LABEL_COLUMNS = ("label", "labels")

ONE_ANSWER = {
    *LABEL_COLUMNS, "score", "target", "class", "category", "rating", "stars", "sentiment",
    "label_text", "coarse_label", "fine_label", "gold_label",
}  # fmt: skip
"""Names that the one answer to a text has in most data."""

LABEL_NAMES = {*ONE_ANSWER, "answers", "tags", "ner_tags"}
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
        """The named columns, or the first of :data:`TEXT_COLUMNS` that exist.

        Without any of them the only column that looks like a text is read, and without a label's
        usual name the only column that has a name of :data:`ONE_ANSWER`, in lower or upper case.
        """
        label = label_column or self.label_column(table)
        usual = label in (*LABEL_COLUMNS, "score")
        if label_column is None and usual and label not in table.column_names:
            label = similar_label(table) or label
        if text_columns and len(text_columns) > 2:
            raise UsageError(
                f"{self.name} reads one or two texts, not the {len(text_columns)} of "
                f"`text_columns`: {', '.join(text_columns)}."
            )
        if text_columns:
            return Columns(tuple(text_columns), label)
        for candidate in TEXT_COLUMNS:
            if set(candidate) <= set(table.column_names):
                return self._with_label(source, table, Columns(candidate, label))
        cased = in_lower_case(table)
        for candidate in TEXT_COLUMNS:
            if set(candidate) <= set(cased):
                found = tuple(cased[name] for name in candidate)
                return self._with_label(source, table, Columns(found, label))
        own = label.split(",")
        texts = [n for n in table.column_names if n not in own and looks_like_text(table, n)]
        if len(texts) == 1 and own[0] in table.column_names:
            return Columns(tuple(texts), label)
        data = next((n for n in table.column_names if len(n.split()) >= FEWEST_WORDS), None)
        if data is not None:
            raise UsageError(
                f"{source} has a column called {data[:60]!r}, which looks like a row of the data: "
                "the first line of a table must hold the names of its columns, such as text,label."
            )
        options = _example("text_columns", ",".join(texts[:2]))
        if own[0] not in table.column_names:
            options += f" and {_example('label_column', _answer(table, texts))}"
        raise UsageError(
            f"{source} has none of the text columns axsearch recognises for {self.name}; it has "
            f"{', '.join(table.column_names)}: name them with {options}."
        )

    def label_column(self, table: datasets.Dataset) -> str:
        """The column of the label if none is named: the first of :data:`LABEL_COLUMNS`."""
        there = (column for column in LABEL_COLUMNS if column in table.column_names)
        return next(there, LABEL_COLUMNS[0])

    def _with_label(self, source: str, table: datasets.Dataset, found: Columns) -> Columns:
        """The columns; raises UsageError where no label is among the table's columns."""
        if not set(self.label_columns(found)) & set(table.column_names):
            raise UsageError(
                f"{source} has no column {found.label!r}; it has {', '.join(table.column_names)}: "
                f"name the label's with {_example('label_column', _answer(table, found.texts))}."
            )
        return found

    def learnable(self, examples: Sequence[TextExample[L]]) -> bool:
        """Whether there are at least two labels."""
        return len({example.label for example in examples}) > 1

    def unanswered(
        self, source: str, table: datasets.Dataset, columns: Columns, like: TextExample[L]
    ) -> list[TextExample[L]]:
        """One or two texts each, none of them empty."""
        texts = [table[column][:] for column in columns.texts]
        for column, values in zip(columns.texts, texts, strict=True):
            require_texts(source, "unlabelled", column, values)
        rows = zip(*texts, strict=True)
        return [like._replace(texts=row) for row in rows if all(t and t.strip() for t in row)]

    def lengths(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[TextExample[L]]
    ) -> Sequence[int]:
        """The tokens of the one or two texts of each example."""
        texts = [example.texts for example in examples]
        return [len(one["input_ids"]) for one in encode(tokenizer, texts, None)]


def in_lower_case(table: datasets.Dataset) -> dict[str, str]:
    """Columns by their names in lower case, but for those that would become the same."""
    lower = [name.lower() for name in table.column_names]
    return {name.lower(): name for name in table.column_names if lower.count(name.lower()) == 1}


def is_usual(texts: Sequence[str]) -> bool:
    """Whether texts are called as most are, in lower or upper case."""
    return tuple(name.lower() for name in texts) in TEXT_COLUMNS


def similar_label(table: datasets.Dataset) -> str | None:
    """The label's column where it has another name than usual: the only one that answers have.

    A score may be a class or a number; regression alone reads one unasked.
    """
    cased = in_lower_case(table)
    usual = [cased[name] for name in LABEL_COLUMNS if name in cased]
    others = [name for low, name in cased.items() if low in ONE_ANSWER - {"score"}]
    return usual[0] if usual else others[0] if len(others) == 1 else None


def looks_like_text(table: datasets.Dataset, name: str) -> bool:
    """Whether a column holds texts, by its name or by the number of their words."""
    values = table[name][:LOOKED_AT]
    if not all(value is None or isinstance(value, str) for value in values):
        return False
    if name.lower() in TEXT_NAMES:
        return any(values)
    words = [len(value.split()) for value in values if value]
    return bool(words) and sum(words) / len(words) >= FEWEST_WORDS


def _answer(table: datasets.Dataset, texts: Sequence[str]) -> str:
    """A column that may be the label's: one of an answer's names, or with few values; or none."""
    others = [name for name in table.column_names if name not in texts]
    named = [name for name in others if name.lower() in ONE_ANSWER]
    counts = {name: len({*map(str, table[name][:])}) for name in others}
    few = [name for name in others if 1 < counts[name] <= len(table) // 2]
    return next(iter((*named, *sorted(few, key=lambda name: counts[name]))), "")


def _example(option: str, value: str) -> str:
    """An option with the value that it may have; as it is where none is known."""
    return f'`{option}="{value}"`' if value else f"`{option}`"


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
