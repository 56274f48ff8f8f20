"""Sentences about columns: those that are read, and those that look as if they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from axsearch.tasks.kinds import Columns, TaskKind
from axsearch.tasks.kinds.sequences import FEWEST_WORDS, LABEL_NAMES

TEXTS = {
    "text", "sentence", "text_pair", "text_a", "text_b", "text1", "text2", "sentence1", "sentence2",
    "sentence_a", "sentence_b", "question", "question1", "question2", "premise", "hypothesis",
    "query", "passage", "document", "context", "title", "body", "content", "review", "comment",
    "comment_text", "message",
}  # fmt: skip
"""Names that texts have in most data."""

LOOKED_AT = 100
"""Rows whose words are counted."""


def columns_read(kind: TaskKind[Any, Any], columns: Columns) -> str:
    """The task and the columns that are read for it."""
    texts = " and ".join(columns.texts)
    return f"Task {kind.name}: reads {texts} and, as the answer, {columns.label}."


def unread_columns(table: datasets.Dataset, read: Sequence[str]) -> list[str]:
    """A sentence on the columns that are not read, though they look like texts or labels."""
    others = [name for name in table.column_names if name not in read]
    texts = [name for name in others if _is_text(table, name)]
    labels = [name for name in others if name not in texts and name.lower() in LABEL_NAMES]
    if not texts and not labels:
        return []
    found = [f"{name} (looks like a text)" for name in texts]
    found += [f"{name} (looks like a label)" for name in labels]
    options = (("`text_columns`", texts), ("`label_column`", labels))
    named = " and ".join(option for option, names in options if names)
    return [f"Not read: {', '.join(found)}; {named} would name other columns."]


def _is_text(table: datasets.Dataset, name: str) -> bool:
    values = table[name][:LOOKED_AT]
    if not all(value is None or isinstance(value, str) for value in values):
        return False
    if name.lower() in TEXTS:
        return any(values)
    words = [len(value.split()) for value in values if value]
    return bool(words) and sum(words) / len(words) >= FEWEST_WORDS
