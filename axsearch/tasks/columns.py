"""Sentences about columns: those that are read, and those that look as if they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from axsearch.tasks.kinds import Columns, TaskKind
from axsearch.tasks.kinds.sequences import LABEL_NAMES, looks_like_text


def columns_read(kind: TaskKind[Any, Any], columns: Columns) -> str:
    """The task and the columns that are read for it."""
    texts = " and ".join(columns.texts)
    return f"Task {kind.name}: reads {texts} and, as the answer, {columns.label}."


def unread_columns(
    table: datasets.Dataset, read: Sequence[str], *, chosen: bool = False
) -> list[str]:
    """A sentence on the columns that are not read, though they look like texts or labels.

    It is on all of them where the text was chosen by its looks.
    """
    others = [name for name in table.column_names if name not in read]
    if chosen:
        return [f"Not read: {', '.join(others)}."] if others else []
    texts = [name for name in others if looks_like_text(table, name)]
    labels = [name for name in others if name not in texts and name.lower() in LABEL_NAMES]
    if not texts and not labels:
        return []
    found = [f"{name} (looks like a text)" for name in texts]
    found += [f"{name} (looks like a label)" for name in labels]
    options = (("`text_columns`", texts), ("`label_column`", labels))
    named = " and ".join(option for option, names in options if names)
    return [f"Not read: {', '.join(found)}; {named} would name other columns."]
