"""Texts without labels, from which a smaller model learns what its base makes of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import datasets

from axsearch.errors import UsageError
from axsearch.tasks.data_files import READERS, read_file, read_lines, suffix_of
from axsearch.tasks.kinds import Columns, TaskKind

LINES = ".txt"
"""The suffix of a file with a text on each line."""


def read_unlabelled(
    path: str,
    kind: TaskKind[Any, Any],
    columns: Columns,
    encoding: str | None,
    like: Any,
    known: Collection[Any],
) -> list[Any]:
    """The examples of a file that no other example asks, each once.

    Args:
        path: of a text on each line (``.txt``), or of a table that has the columns of the data's
            texts.
        kind: of the task.
        columns: of the data.
        encoding: of text files, if it is not UTF-8.
        like: an example that has an answer, which those of the file get.
        known: other examples; what they ask is left out.

    Raises:
        UsageError: the file cannot be read, lacks a column, or holds nothing new.
    """
    file = Path(path).expanduser()
    table = _lines(file, columns, encoding) if suffix_of(file) == LINES else _table(file, encoding)
    lacking = [column for column in columns.texts if column not in table.column_names]
    if lacking:
        raise UsageError(
            f"{file} has no column {lacking[0]!r}, which the data have; it has "
            f"{', '.join(table.column_names)}."
        )
    seen = {_asked(example) for example in known}
    found: list[Any] = []
    for example in kind.unanswered(str(file), table, columns, like):
        if _asked(example) not in seen:
            seen.add(_asked(example))
            found.append(example)
    if not found:
        raise UsageError(f"{file} holds no text that the data do not have.")
    return found


def _asked(example: Any) -> tuple[str, ...]:
    """What an example asks: all but its answer, which is its last entry, as bare characters.

    The same text may have other blanks in another file, and many tokenizers do not tell upper from
    lower case.
    """
    found = []
    for part in tuple(example)[:-1]:
        texts = [part] if isinstance(part, str) else list(part)
        found.append("".join("".join(texts).split()).casefold())
    return tuple(found)


def _lines(file: Path, columns: Columns, encoding: str | None) -> datasets.Dataset:
    if len(columns.texts) > 1:
        raise UsageError(
            f"{file} has one text a line, and the data have {' and '.join(columns.texts)}: give a "
            "table with these columns."
        )
    return datasets.Dataset.from_dict({columns.texts[0]: read_lines(file, encoding)})


def _table(file: Path, encoding: str | None) -> datasets.Dataset:
    if suffix_of(file) not in READERS:
        raise UsageError(f"{file} is neither lines of text ({LINES}) nor a table such as .csv.")
    return read_file(file, encoding)
