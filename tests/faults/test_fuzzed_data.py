"""Data folders as anything may have written them: every row as it stands, or one sentence."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axsearch.errors import UsageError
from axsearch.tasks.data import Data, read_data
from axsearch.tasks.task import Task
from axsearch.testing.samples import KINDS, rows, write_rows
from tests.faults.sentences import fuzz, sentence
from tests.mutations import STRANGE, at, changed, positions

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
LENGTH = 6  # too few to cut a split from

NAMES = st.sampled_from(
    ["text", "label", "score", "tokens", "tags", "answers", "question", "context", "answer_start"]
)


TEXTS = st.sampled_from(
    ["007", "1e5", "NA", "true", "", "nan", "a\nb", "\0", "日本", "x" * 200_000]
)
FITTING = st.sampled_from(
    [
        "a", "B-GOOD", "word1", "", "0.5", "NA", 0, 1, -1, 7, 0.5, 1.0, True, None, ["a"],
        ["a", "b"], [1], [True], [0.5], [["a"]], [None], {"text": ["word1"], "answer_start": [0]},
        {"text": [], "answer_start": []}, {"text": ["a"], "answer_start": [True]}, {"text": ["a"]},
        [{"text": "a", "answer_start": 0}], {"text": [""], "answer_start": [0]},
    ]
).map(copy.deepcopy)  # fmt: skip
"""What may stand in a row of some kind of task."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def read(source: Path, **given: Any) -> Data | None:
    """What axsearch reads, None where it refuses."""
    try:
        return read_data(str(source), **given)
    except UsageError as error:
        sentence(error)
        return None


def label_of(value: Any) -> str:
    """What a class is called; whole numbers are called the same however they are written."""
    assert isinstance(value, str | int | float)
    whole = isinstance(value, float) and value == math.floor(value)
    assert value != ""
    return str(int(value)) if whole else str(value)


def number_of(value: Any) -> float:
    """The number that a score is."""
    assert not isinstance(value, bool)
    if isinstance(value, str):
        assert re.fullmatch(r"[-+0-9.eE]+", value.strip())
    assert math.isfinite(float(value))
    return float(value)


def texts_of(row: Row, names: tuple[str, ...]) -> tuple[str, ...]:
    texts = tuple(row[name] for name in names)
    assert all(isinstance(text, str) for text in texts)
    return texts


def question_of(row: Row, names: tuple[str, ...], label: str) -> Any:
    question, context = texts_of(row, names)
    answers = row[label]
    if isinstance(answers, list):
        pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
    else:
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
    for text, start in pairs:
        assert type(start) is int
        assert context[start : start + len(text)] == text != ""
    return question, context, tuple(dict.fromkeys(pairs))


def tagged_of(row: Row, names: tuple[str, ...], label: str) -> Any:
    (words,), tags = (row[name] for name in names), row[label]
    assert all(isinstance(word, str) for word in words)
    assert all(isinstance(tag, str) or type(tag) is int for tag in tags)
    assert len(words) == len(tags) > 0
    return tuple(words), tuple(map(str, tags))


EXAMPLE: dict[str, Callable[[Row, tuple[str, ...], str], Any]] = {
    "text-classification": lambda row, names, label: (texts_of(row, names), label_of(row[label])),
    "regression": lambda row, names, label: (texts_of(row, names), number_of(row[label])),
    "question-answering": question_of,
    "token-classification": tagged_of,
}
"""What a row means, written from the formats alone; fails for a row that means nothing."""


SWITCHES = {"0", "1", "0.0", "1.0", "False", "True", "false", "true"}


def several_of(rows: list[Row], names: tuple[str, ...], label: str, switched: bool) -> list[Any]:
    """Texts and all their labels: names or ids, or positions where lists switch each class."""
    lists = [row[label] for row in rows]
    for one in lists:
        assert isinstance(one, list)
        assert all(isinstance(name, str | int | float) and name != "" for name in one)
        assert not switched or {str(name) for name in one} <= SWITCHES
    found = []
    for row, one in zip(rows, lists, strict=True):
        if switched:
            there = [str(at) for at, name in enumerate(one) if str(name)[0] in "1Tt"]
        else:
            there = sorted({label_of(name) for name in one})
        found.append((texts_of(row, names), tuple(there)))
    return found


def has_label(row: Row, label: str) -> bool:
    value = row.get(label)
    return (
        value is not None and value == value and not (isinstance(value, str) and not value.strip())
    )


def assert_every_row(found: Data, written: dict[str, list[Row]]) -> None:
    """Every row that has a label is an example, in order, and says what was written; the number of
    others is said.
    """
    kind, (names, label, switches), left_out = found.kind.name, found.columns, []
    for split in SPLITS:
        rows = [row for row in written[split] if has_label(row, label) and row[label] != [-1]]
        if kind == "multi-label-classification":
            expected = several_of(rows, names, label, switches)
        else:
            expected = [EXAMPLE[kind](row, names, label) for row in rows]
        assert [tuple(one) for one in getattr(found, split)] == expected
        if len(rows) < len(written[split]):
            count, of = len(written[split]) - len(rows), len(written[split])
            left_out.append(
                f"{count} of the {of} rows of the {split} split have no label and are left out."
            )
    assert [note for note in found.notes if not note.startswith("Not read: ")] == left_out


LIKE: dict[type, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-1, 9),
    float: st.floats(-3, 3),
}
OTHERS: list[Callable[[Any], Any]] = [
    str, bool, lambda leaf: [leaf], lambda leaf: {"a": leaf}, lambda leaf: 0.5, lambda leaf: 1,
    lambda leaf: None,
]  # fmt: skip


def with_leaves(value: Any, other: Callable[[Any], Any]) -> Any:
    """A JSON value with something else in the place of every text and number."""
    if isinstance(value, dict):
        return {key: with_leaves(item, other) for key, item in value.items()}
    if isinstance(value, list):
        return [with_leaves(item, other) for item in value]
    return other(value)


@st.composite
def spoilt(draw: st.DrawFn, kind: str) -> list[Row]:
    """Rows of a kind of which one, all, or one column of all were changed."""
    found = rows(kind, LENGTH, 0)
    way = draw(st.sampled_from(["leaf", "leaf", "leaves", "row", "rows", "column", "columns"]))
    if way == "leaf":  # by a value of the same kind
        leaves = [p for p in positions(found) if not isinstance(at(found, p), dict | list)]
        *place, key = draw(st.sampled_from(leaves))
        parent = at(found, place)
        parent[key] = draw(LIKE[type(parent[key])])
    elif way == "leaves":  # of one column, by others of one kind
        name, other = draw(st.sampled_from(sorted(found[0]))), draw(st.sampled_from(OTHERS))
        found = [{**row, name: with_leaves(row[name], other)} for row in found]
    elif way == "row":
        place = draw(st.integers(0, LENGTH - 1))
        found[place] = draw(changed(st.just(found[place]), STRANGE | FITTING, NAMES, most=1))
    elif way == "rows":
        found = [draw(changed(st.just(row), FITTING, NAMES, most=1)) for row in found]
    else:
        name = draw(st.sampled_from(sorted(found[0])) | NAMES)
        value = draw(STRANGE | FITTING)
        other = draw(FITTING) if way == "columns" else value
        for place, row in enumerate(found):
            row[name] = value if place % 2 else other
    return found


@fuzz(400)
@given(st.sampled_from(KINDS), st.sampled_from(SPLITS), st.booleans(), st.data())
def test_jsonl_rows(folder: Path, kind: str, split: str, told: bool, draw: st.DataObject) -> None:
    written = {name: rows(kind, LENGTH, seed) for seed, name in enumerate(SPLITS)}
    written[split] = draw.draw(spoilt(kind))
    for name in SPLITS:
        write_rows(folder / f"{name}.jsonl", written[name])
    found = read(folder, task=kind if told else None)
    if found is not None:
        assert_every_row(found, written)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_not_changed_are_read(folder: Path, kind: str) -> None:
    written = {name: rows(kind, LENGTH, seed) for seed, name in enumerate(SPLITS)}
    for name in SPLITS:
        write_rows(folder / f"{name}.jsonl", written[name])
    found = read(folder)
    assert found is not None
    assert_every_row(found, written)


LABELS = ["0", "1", "01", "-1", "NA", "true", "no", "", " ", "nan", "inf", "1e5"]
SCORES = ["0", "0.5", "-1", "1e3", " 2.5 ", "1_0", "٣", "nan", "inf", "", "1e999"]

OTHER_HEADERS = [["label", "text", "id"], ["text"], ["text", "score"]]


@fuzz(250)
@given(st.data(), st.sampled_from(["text-classification", "regression", None]))
def test_csv_rows(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, task: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "csv"
    folder.mkdir(exist_ok=True)
    written: dict[str, list[Row]] = {}
    values = draw.draw(st.sampled_from([LABELS, SCORES]))
    labels = st.sampled_from(draw.draw(st.lists(st.sampled_from(values), min_size=2, max_size=3)))
    for split in SPLITS:
        header = draw.draw(st.sampled_from([["text", "label"]] * 30 + OTHER_HEADERS))
        row = st.fixed_dictionaries({n: TEXTS if n == "text" else labels for n in header})
        written[split] = draw.draw(st.lists(row, min_size=2, max_size=5))
        lines = [header, *([row[name] for name in header] for row in written[split])]
        quoted = "\n".join(",".join(f'"{cell}"' for cell in line) for line in lines)
        (folder / f"{split}.csv").write_bytes(quoted.encode())
    found = read(folder, task=task)
    if found is not None:
        assert_every_row(found, written)


@fuzz(25)
@given(st.lists(st.text(max_size=30) | TEXTS, min_size=2, max_size=5))
def test_task_has_every_row(
    base_dir: Path, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "task"
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        content = [{"text": text, "label": row % 2} for row, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, content)))
    task = Task.load(str(base_dir), str(folder))
    for part in (task.calibration, task.search, task.holdout):
        assert len(part) == len(texts)
        assert list(part.targets) == [row % 2 for row in range(len(texts))]
