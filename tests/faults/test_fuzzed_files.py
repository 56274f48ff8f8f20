"""Files of examples as anything may have written them: every value as it stands, or refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axsearch.errors import UsageError
from axsearch.tasks.data_files import read_file
from tests.faults.sentences import fuzz, sentence
from tests.mutations import STRANGE, doubled, parsed, spliced

Table = list[dict[str, Any]]

LONG = "long " * 30_000
CELLS = st.text(max_size=20) | st.sampled_from(
    [
        "007", "1e5", "1.50", "NA", "null", "nan", "true", "", " padded ", "1_000", "a,b",
        "2020-01-01", 'a "b" c', "two\nlines", "two\r\nlines", "\r", "\0", "\x1a", "\ufeff",
        "\u2028", "日本", LONG,
    ]
)  # fmt: skip
NAMES = st.lists(
    st.sampled_from(["text", "label", "score", "", " text", "a\nb", 'a"b', "\ufefftext", "日本"]),
    min_size=1,
    max_size=4,
    unique=True,
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
BOM = st.sampled_from(["", "\ufeff"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def read(path: Path, content: bytes) -> Table | None:
    """What axsearch reads, None where it refuses."""
    path.write_bytes(content)
    try:
        table = read_file(path)
    except UsageError as error:
        sentence(error)
        return None
    columns = {name: table[name][:] for name in table.column_names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def csv_text(rows: list[list[str]], end: str) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return written.getvalue()


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """The rows of a CSV file, header first."""
    names = draw(NAMES)
    row = st.lists(CELLS, min_size=len(names), max_size=len(names))
    return [names, *draw(st.lists(row, min_size=1, max_size=5))]


def csv_rows(content: bytes) -> Table | None:
    """What Python's own reader sees, None where that is no table."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text))
    header, *rows = [row for row in lines if row] or [[]]
    named = [place for place, name in enumerate(header) if name.strip()]
    names = [header[place].strip(" ") for place in named]
    if not rows or not names or len(set(names)) < len(names):
        return None
    if {len(row) for row in rows} != {len(header)}:
        return None
    return [dict(zip(names, (row[place] for place in named), strict=True)) for row in rows]


def separator_of(text: str) -> str:
    """Commas, unless the first line that is not blank has more cells with another separator."""
    lines = (line for line in io.StringIO(text, newline="") if line.strip(" \t\r\n"))
    first = next(lines, "")
    return max(",;\t|", key=lambda one: len(next(csv.reader([first], delimiter=one), [])))


@fuzz(150)
@given(tables(), ENDS, BOM)
def test_csv_that_is_well_formed(folder: Path, rows: list[list[str]], end: str, bom: str) -> None:
    header, *cells = rows
    text = csv_text(rows, end)
    found = read(folder / "train.csv", (bom + text).encode())
    if separator_of(text) == "," and all(
        name.strip() and name == name.strip(" ") for name in header
    ):
        assert found == [dict(zip(header, row, strict=True)) for row in cells]
    else:
        assert found is None or found == csv_rows(text.encode())


ODDS = st.text(st.sampled_from('ab01,,,"" \n\n\r\t;\0é\ufeff\x1a'), max_size=40)


@fuzz(300)
@given(
    st.one_of(
        ODDS.map(str.encode),
        ODDS.map(lambda text: b"text,label\n" + text.encode()),
        spliced(tables().map(lambda rows: csv_text(rows, "\n"))).map(str.encode),
        st.builds(lambda end: b"text,label\na,1\n" + end, st.binary(max_size=12)),
        st.binary(max_size=40),
    )
)
def test_any_csv(folder: Path, content: bytes) -> None:
    found = read(folder / "train.csv", content)
    assert found is None or found == csv_rows(content)


COLUMNS: list[st.SearchStrategy[Any]] = [
    CELLS,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(CELLS, max_size=3),
    st.fixed_dictionaries({"text": st.lists(CELLS, max_size=2), "answer_start": st.just([0])}),
]


@st.composite
def documents(draw: st.DrawFn) -> Table:
    """Rows whose columns hold one kind of values each, some of which are missing or null."""
    kinds = {name: draw(st.sampled_from(COLUMNS)) for name in draw(NAMES)}
    keys, count = list(kinds), draw(st.integers(1, 5))
    rows = [{key: draw(kinds[key]) for key in keys} for _ in range(count)]
    for row in rows[1:]:
        key = draw(st.sampled_from([*keys, None]))
        if key is not None:
            row[key] = None
            if draw(st.booleans()):
                del row[key]
    return rows


def jsonl(rows: Table, end: str = "\n") -> str:
    return "".join(json.dumps(row) + end for row in rows)


def json_rows(content: bytes) -> Table | None:
    """What Python's own reader sees, None where a line is no object or means two things."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    rows = [parsed(line) for line in text.split("\n") if line.strip(" \t\r")]
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    names = dict.fromkeys(name for row in rows for name in row)
    return [dict.fromkeys(names) | row for row in rows]


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are the same.

    A key that another row has is null, and a whole number among fractions is a fraction.
    """
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and all(
            key in ours and same(ours[key], theirs.get(key)) for key in ours.keys() | theirs.keys()
        )
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if type(theirs) is int and type(ours) is float:
        return int(ours) == theirs
    return type(ours) is type(theirs) and bool(ours == theirs)


@fuzz(200)
@given(documents(), st.sampled_from(["\n", "\r\n", "\n\n", " \r\n\t\n"]), BOM)
def test_jsonl_that_is_well_formed(folder: Path, rows: Table, end: str, bom: str) -> None:
    content = (bom + jsonl(rows, end)).encode()
    found = read(folder / "train.jsonl", content)
    assert found is not None
    assert same(found, json_rows(content))


ROWS = st.lists(
    st.dictionaries(st.sampled_from(["text", "label", "score"]), STRANGE, min_size=1),
    min_size=1,
    max_size=3,
)


@fuzz(400)
@given(
    st.one_of(
        ROWS.map(jsonl).map(str.encode),
        spliced(documents().map(jsonl)).map(str.encode),
        doubled(ROWS.map(lambda rows: rows[0])).map(str.encode),
        st.lists(STRANGE, max_size=3).map(lambda v: "\n".join(map(json.dumps, v)).encode()),
        ROWS.map(json.dumps).map(str.encode),
        st.builds(lambda end: b'{"text": "a", "label": 1}\n' + end, st.binary(max_size=12)),
        st.binary(max_size=40),
    )
)
def test_any_jsonl(folder: Path, content: bytes) -> None:
    found = read(folder / "train.jsonl", content)
    assert found is None or same(found, json_rows(content))
