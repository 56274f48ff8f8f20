"""Texts without labels: read as the data's, without those that the data have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from axsearch.errors import UsageError
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds import Columns, TaskKind, named_kind
from axsearch.tasks.kinds.question_answering import Question
from axsearch.tasks.kinds.sequences import TextExample
from axsearch.tasks.kinds.token_classification import Tagged
from axsearch.tasks.unlabelled import read_unlabelled
from axsearch.testing.samples import KINDS, write_data

ONE: Any = TextExample(("some text",), "good")
TEXT = Columns(("text",), "label")


def kind_of(name: str) -> TaskKind[Any, Any]:
    found = named_kind(name)
    assert found is not None
    return found


def read(path: Path, known: list[Any] | None = None, columns: Columns = TEXT) -> list[Any]:
    kind = kind_of("text-classification")
    return read_unlabelled(str(path), kind, columns, None, ONE, known or [ONE])


def refused(path: Path, **given: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(path, **given)
    return str(caught.value)


def test_each_line_is_a_text_once(tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_text("a, b\n\nsome text\n c \na, b\n   \n")
    assert [one.texts for one in read(path)] == [("a, b",), (" c ",)]
    assert {one.label for one in read(path)} == {"good"}  # as the head knows it


def test_what_the_splits_ask_is_left_out_whatever_they_answer(tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("id,text,label\n1,known,\n2,new,\n3,,\n")
    known = [ONE, TextExample(("Kno wn ",), "bad")]  # blanks and case differ from file to file
    assert [one.texts for one in read(path, known)] == [("new",)]
    assert "more.csv holds no text that the data do not have" in refused(
        path, known=[*known, TextExample(("new",), "good")]
    )


def test_a_table_has_the_columns_of_the_texts(tmp_path: Path) -> None:
    path, pair = tmp_path / "more.jsonl", Columns(("first", "second"), "label")
    path.write_text(json.dumps({"first": "a", "second": "b"}) + "\n" + json.dumps({"first": "c"}))
    assert [one.texts for one in read(path, columns=pair)] == [("a", "b")]
    assert "has no column 'text', which the data have; it has first, second" in refused(path)
    path.write_text(json.dumps({"text": 3}))
    assert "no text in column 'text' of row 1, but '3'" in refused(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.txt", "cannot be read: No such file"),
        ("a.txt.gz", "cannot be read: Not a gzipped file"),
        ("a.pdf", "is neither lines of text (.txt) nor a table"),
        ("latin.txt", "is not UTF-8 text; name its `encoding`"),
    ],
)
def test_other_files(tmp_path: Path, name: str, said: str) -> None:
    if name != "none.txt":
        (tmp_path / name).write_bytes(b"caf\xe9 so bon")
    assert said in refused(tmp_path / name)
    lines = tmp_path / "lines.txt"
    lines.write_text("a")
    pair = Columns(("first", "second"), "label")
    assert "the data have first and second: give a table" in refused(lines, columns=pair)


def test_words_and_questions(tmp_path: Path) -> None:
    words, questions = kind_of("token-classification"), kind_of("question-answering")
    path = tmp_path / "more.conll"
    path.write_text("Bo B-PER\nran O\n\nhome O\n\nx O\ny O\n")
    like = Tagged(("x", "y"), (None, "O"))
    columns = Columns(("tokens",), "tags")
    found = read_unlabelled(str(path), words, columns, None, like, [like])
    assert found == [Tagged(("Bo", "ran"), ("O", "O")), Tagged(("home",), ("O",))]
    for name, content in (("lines.txt", "Bo ran"), ("lists.csv", "tokens\n\"['Bo', 'ran']\"")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=r"a list of words|lists that were written as text"):
            read_unlabelled(str(tmp_path / name), words, columns, None, like, [like])
    path = tmp_path / "more.jsonl"
    rows = [{"question": "who?", "context": "Bo ran."}, {"question": " ", "context": "x"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = Question("who?", "x", (("x", 0),))
    columns = Columns(("question", "context"), "answers")
    found = read_unlabelled(str(path), questions, columns, None, asked, [asked])
    assert found == [Question("who?", "Bo ran.", ())]


@pytest.mark.parametrize("name", KINDS)
def test_data_of_every_kind_are_read_without_their_answers(name: str, tmp_path: Path) -> None:
    data = read_data(str(write_data(name, tmp_path)))
    kind, known = data.kind, data.train[:1]
    (path,) = tmp_path.glob("train.*")
    found = read_unlabelled(str(path), kind, data.columns, None, known[0], known)
    wanted = {tuple(one)[:-1] for one in data.train} - {tuple(known[0])[:-1]}
    assert {tuple(one)[:-1] for one in found} == wanted
