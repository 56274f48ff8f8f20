"""Reading one file of examples: CSV, JSON lines or Parquet.

CSV and JSON lines are read by Python's own readers: every value is exactly what the file says, text
is never converted to a number or a date, and a file that could be read in two ways is refused.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from pyarrow import parquet

from axsearch import strict_json
from axsearch.errors import UsageError, cause

SUFFIXES = (".csv", ".jsonl", ".parquet")
LONGEST_FIELD = (1 << 31) - 1
BLANK = " \t\r\n"
KINDS = {
    str: "strings", int: "integers", float: "floats", bool: "booleans", list: "lists",
    dict: "objects",
}  # fmt: skip


def read_file(path: Path) -> datasets.Dataset:
    """The rows of a file; raises UsageError naming the file if any of it cannot be read."""
    read = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[path.suffix]
    try:
        table = read(path)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {cause(error)}.") from None
    if not table.num_rows:
        raise UsageError(f"{path} holds no rows.")
    try:
        return datasets.Dataset(table)
    except Exception as error:  # datasets raises a dozen unrelated kinds for types it lacks
        raise UsageError(f"{path} cannot be read: {cause(error)}.") from None


def _read_csv(path: Path) -> pa.Table:
    # Not pyarrow.csv, which has no strict mode: a quote that is never closed may turn the rest of
    # the file into one value, `"a"b` is read as `ab`, and errors count rows instead of lines.
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            rows = (row for row in lines if row)
            names = next(rows, [])
            columns: list[list[str]] = [[] for _ in names]
            for row in rows:
                if len(row) != len(names):
                    raise UsageError(
                        f"{path} cannot be read: line {lines.line_num} has {len(row)} columns, "
                        f"the header has {len(names)}."
                    )
                for column, cell in zip(columns, row, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise UsageError(f"{path} cannot be read: line {lines.line_num}: {error}.") from None
    return _table(path, names, [pa.array(column, pa.string()) for column in columns])


def _read_jsonl(path: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip(BLANK)
            if not text:
                continue
            try:
                row = strict_json.loads(text)
            except JSONDecodeError as error:
                reason = error.msg.removesuffix(" at")
                raise UsageError(
                    f"{path} cannot be read: line {number}, column {error.colno}: {reason}."
                ) from None
            except ValueError as error:
                raise UsageError(f"{path} cannot be read: line {number}: {error}.") from None
            if not isinstance(row, dict):
                raise UsageError(f"{path} cannot be read: line {number} is not a JSON object.")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _table(path, names, [_array(path, name, [r.get(name) for r in rows]) for name in names])


def _read_parquet(path: Path) -> pa.Table:
    table = parquet.read_table(path)
    table.validate(full=True)  # texts that are not UTF-8 would fail much later
    return _table(path, table.column_names, table.columns, table.schema.metadata)


def _table(
    path: Path, names: Sequence[str], columns: Sequence[Any], metadata: Any = None
) -> pa.Table:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{path} has the column {twice[0]!r} twice; rename one.")
    strange = [name for name in names if "\0" in name]
    if strange:
        raise UsageError(
            f"{path} has the column {strange[0]!r}, whose name contains a NUL; rename it."
        )
    return pa.Table.from_arrays(list(columns), names=list(names), metadata=metadata)


def _array(path: Path, name: str, values: list[Any]) -> pa.Array:
    where = f"{path} cannot be read: column {name!r}"
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:  # true would become 1 beside a fraction
        mixed = " and ".join(called for kind, called in KINDS.items() if kind in kinds)
        raise UsageError(f"{where} mixes {mixed}; use one type in a column.")
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        raise UsageError(
            f"{where} contains half of a surrogate pair, which is not a character."
        ) from None
    except (pa.ArrowException, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{where} has values that do not fit one type ({cause(error)}).") from None
