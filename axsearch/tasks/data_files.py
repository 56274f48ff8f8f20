"""Reading one file of examples: a table as CSV, TSV, JSON or Parquet, or SQuAD's or CoNLL's format.

Text files are read by Python's own readers: every value is exactly what the file says, text is
never converted to a number or a date, and a file that could be read in two ways is refused. Any of
them may be compressed with gzip, bzip2 or xz, or be the only file of a zip archive.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TextIO, cast

import datasets
import pyarrow as pa
from pyarrow import parquet

from axsearch import strict_json
from axsearch.errors import UsageError, cause
from axsearch.tasks.corpora import read_conll, squad_rows

LONGEST_FIELD = (1 << 31) - 1
BLANK = " \t\r\n"
OPENERS: Mapping[str, Callable[[Path], Any]] = MappingProxyType(
    {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
)
"""What opens a compressed file, by its suffix."""

ZIP = ".zip"
COMPRESSED = (*OPENERS, ZIP)
KINDS = {
    str: "strings", int: "integers", float: "floats", bool: "booleans", list: "lists",
    dict: "objects",
}  # fmt: skip
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip

UNPACKING = (zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError)
"""What readers of damaged or encrypted archives raise, beside OSError, EOFError and ValueError."""

Rows = list[dict[str, Any]]


def suffix_of(path: Path) -> str:
    """The suffix that says a file's format, in lower case, without that of its compression."""
    return Path(_uncompressed(path)).suffix.lower()


def stem_of(path: Path) -> str:
    """The name of a file without the suffixes of its format and compression."""
    return _uncompressed(path).removesuffix(Path(_uncompressed(path)).suffix)


def read_file(path: Path, encoding: str | None = None) -> datasets.Dataset:
    """The rows of a file; raises UsageError naming the file if any of it cannot be read.

    ``encoding`` is that of text files; by default UTF-8, or what a byte order mark says.
    """
    try:
        table = READERS[suffix_of(path)](path, encoding)
    except UnicodeDecodeError:
        if encoding is None:
            raise UsageError(
                f"{path} is not UTF-8 text; name its `encoding`, such as cp1252, or save it as "
                "UTF-8."
            ) from None
        raise UsageError(f"{path} is not {encoding} text; name another `encoding`.") from None
    except (pa.ArrowException, OSError, EOFError, ValueError, *UNPACKING) as error:
        raise UsageError(f"{path} cannot be read: {cause(error)}.") from None
    if not table.num_rows:
        raise UsageError(f"{path} holds no rows.")
    try:
        # A name for caches, which are not used here; else all of it is hashed for one.
        return datasets.Dataset(table, fingerprint=uuid.uuid4().hex)
    except Exception as error:  # datasets raises a dozen unrelated kinds for types it lacks
        raise UsageError(f"{path} cannot be read: {cause(error)}.") from None


def read_lines(path: Path, encoding: str | None = None) -> list[str]:
    """The lines of a text file; raises UsageError where it cannot be read, or is not text."""
    try:
        with _text(path, encoding, "\n") as file:
            return file.read().splitlines()
    except UnicodeDecodeError:
        raise UsageError(
            f"{path} is not {encoding or 'UTF-8'} text; name its `encoding`, such as cp1252."
        ) from None
    except (OSError, EOFError, *UNPACKING) as error:
        reason = getattr(error, "strerror", None) or cause(error)
        raise UsageError(f"{path} cannot be read: {reason}.") from None


def is_compressed(path: Path) -> bool:
    """Whether the suffix is that of a compressed file."""
    return path.name.lower().endswith(COMPRESSED)


def _uncompressed(path: Path) -> str:
    """The name of a file without the suffix of its compression."""
    return path.name[: -len(path.suffix)] if is_compressed(path) else path.name


@contextmanager
def _binary(path: Path) -> Iterator[BinaryIO]:
    suffix = path.suffix.lower()
    if suffix == ZIP:
        with zipfile.ZipFile(path) as archive, archive.open(_only_member(path, archive)) as file:
            yield cast(BinaryIO, io.BytesIO(file.read()))
        return
    with OPENERS[suffix](path) if suffix in OPENERS else path.open("rb") as file:
        yield cast(BinaryIO, file)


def _only_member(path: Path, archive: zipfile.ZipFile) -> str:
    """The one file of an archive; what macOS adds to it apart."""
    names = [
        one.filename
        for one in archive.infolist()
        if not one.is_dir() and not one.filename.startswith("__MACOSX/")
    ]
    if len(names) != 1:
        raise UsageError(f"{path} holds {len(names)} files; unpack it, and name the folder.")
    return names[0]


@contextmanager
def _text(path: Path, encoding: str | None, newline: str) -> Iterator[TextIO]:
    with _binary(path) as file:
        start = file.read(3)
        file.seek(0)
        marked = (name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark))
        with io.TextIOWrapper(file, encoding or next(marked, "utf-8"), newline=newline) as text:
            yield text


def _read_csv(path: Path, encoding: str | None) -> pa.Table:
    """Commas, or the separator that the header has more of."""
    csv.field_size_limit(LONGEST_FIELD)
    with _text(path, encoding, "") as file:
        header = next((line for line in file if line.strip(BLANK)), "")
    cells = {one: len(next(csv.reader([header], delimiter=one), [])) for one in SEPARATORS}
    separator = max(cells, key=lambda one: cells[one])  # commas, if several are equal
    return _separated(path, encoding, separator, csv.QUOTE_MINIMAL)


def _read_tsv(path: Path, encoding: str | None) -> pa.Table:
    """Tabs; quotes are those of CSV where all of them are, otherwise characters like others."""
    try:
        return _separated(path, encoding, "\t", csv.QUOTE_MINIMAL)
    except UsageError:  # as in GLUE's files, whose texts begin with a quote that never ends
        return _separated(path, encoding, "\t", csv.QUOTE_NONE)


def _separated(path: Path, encoding: str | None, separator: str, quoting: Any) -> pa.Table:
    # Not pyarrow.csv, which has no strict mode: a quote that is never closed may turn the rest of
    # the file into one value, `"a"b` is read as `ab`, and errors count rows instead of lines.
    csv.field_size_limit(LONGEST_FIELD)
    with _text(path, encoding, "") as file:
        lines = csv.reader(file, strict=True, delimiter=separator, quoting=quoting)
        try:
            rows = (row for row in lines if row)
            names = next(rows, [])
            columns: list[list[str]] = [[] for _ in names]
            for row in rows:
                if len(row) != len(names):
                    raise UsageError(
                        f"{path} cannot be read: line {lines.line_num} has {len(row)} columns, "
                        f"the header has {len(names)} (separated by {SEPARATORS[separator]})."
                    )
                for column, cell in zip(columns, row, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise UsageError(
                f"{path} cannot be read: line {lines.line_num}: {error} (columns are taken to be "
                f"separated by {SEPARATORS[separator]})."
            ) from None
    # Columns without a name cannot be asked for: row numbers, or what a spreadsheet left.
    named = [place for place, name in enumerate(names) if name.strip()]
    arrays = [pa.array(columns[place], pa.string()) for place in named]
    return _table(path, [names[place].strip(" ") for place in named], arrays)


def _read_json(path: Path, encoding: str | None) -> pa.Table:
    """An array of objects, one object with such an array as ``data``, SQuAD's form, or lines."""
    with _text(path, encoding, "\n") as file:
        text = file.read()
    try:
        found = strict_json.loads(text)
    except JSONDecodeError:
        return _of_rows(path, _json_lines(path, text.split("\n")))
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None
    rows = found.get("data", [found]) if isinstance(found, dict) else found
    if isinstance(rows, list) and any(isinstance(r, dict) and "paragraphs" in r for r in rows):
        rows = squad_rows(path, rows)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"{path} cannot be read: it must hold a JSON object on each line, or an array of them."
        )
    return _of_rows(path, rows)


def _read_jsonl(path: Path, encoding: str | None) -> pa.Table:
    with _text(path, encoding, "\n") as file:
        return _of_rows(path, _json_lines(path, file))


def _json_lines(path: Path, lines: Iterable[str]) -> Rows:
    rows: Rows = []
    for number, line in enumerate(lines, 1):
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
    return rows


def _read_conll(path: Path, encoding: str | None) -> pa.Table:
    with _text(path, encoding, "\n") as file:
        return _of_rows(path, read_conll(path, file))


def _read_parquet(path: Path, encoding: str | None) -> pa.Table:
    if is_compressed(path):
        with _binary(path) as file:
            table = parquet.read_table(pa.BufferReader(file.read()))
    else:
        table = parquet.read_table(path)
    table.validate(full=True)  # texts that are not UTF-8 would fail much later
    return _table(path, table.column_names, table.columns, table.schema.metadata)


OF_SPLITS: Mapping[str, str] = MappingProxyType(
    {".train": "train", ".testa": "validation", ".testb": "test"}
)
"""The suffixes of CoNLL's files of 2002 and 2003, such as eng.testa, and their splits."""

CONLL = (".conll", ".iob", ".iob2", ".bio", ".txt", *OF_SPLITS)
"""Formats of a word and its tag a line; ``.txt`` may be anything else, too."""

FORMATS = ", ".join((
    ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", *CONLL[: CONLL.index(".txt")],
))  # fmt: skip
"""The suffixes that a message names."""

READERS: Mapping[str, Callable[[Path, str | None], pa.Table]] = MappingProxyType(
    {
        ".csv": _read_csv,
        ".tsv": _read_tsv,
        ".json": _read_json,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": _read_parquet,
        **dict.fromkeys(CONLL, _read_conll),
    }
)
"""How files are read, by their suffix."""


def _of_rows(path: Path, rows: Rows) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _table(path, names, [_array(path, name, [r.get(name) for r in rows]) for name in names])


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
