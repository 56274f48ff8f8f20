"""Reading folders and hub datasets, and refusing what cannot be used."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from axsearch.errors import UsageError
from axsearch.tasks import data
from axsearch.tasks.data import Data, read_data
from axsearch.tasks.kinds.sequences import TEXT_COLUMNS, TextExample
from axsearch.tasks.spec import AS_BEFORE, UNKNOWN

COUNT = 40
SUFFIXES = ["csv", "jsonl", "parquet"]


def rows(count: int = COUNT, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": i % 2} for i in range(start, start + count)]


def quoted(value: object) -> str:
    return '"' + str(value).replace('"', '""') + '"' if isinstance(value, str) else f"{value}"


def write(path: Path, content: Sequence[dict[str, Any]]) -> None:
    """The rows in the format that the file's name asks for; texts are quoted in CSV."""
    if path.suffix == ".csv":
        lines = [",".join(content[0]), *(",".join(map(quoted, row.values())) for row in content)]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        parquet.write_table(pa.Table.from_pylist(list(content)), path)


def folder_of(folder: Path, train: str) -> str:
    """A folder whose only file is this train.csv."""
    (folder / "train.csv").write_text(train)
    return str(folder)


def texts(examples: Sequence[TextExample[str]]) -> list[tuple[str, ...]]:
    return [example.texts for example in examples]


def labels(examples: Sequence[TextExample[str]]) -> set[str]:
    return {example.label for example in examples}


def refused(source: object, **arguments: Any) -> str:
    with pytest.raises(UsageError) as error:
        read_data(str(source), **arguments)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


class TestUnusualNames:
    """Of Kaggle's and other files; what is read is said."""

    @pytest.mark.parametrize(
        ("text", "label"),
        [
            ("review", "sentiment"), ("Text", "Label"), ("comment_text", "label"),
            ("SentenceText", "category"), ("text", "target"), ("TEXT", "Class"),
        ],
    )  # fmt: skip
    def test_one_text_and_one_answer(self, tmp_path: Path, text: str, label: str) -> None:
        content = [{"id": i, text: f"this is text {i}", label: i % 2} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        found = read_data(str(tmp_path))
        assert (found.columns.texts, found.columns.label) == ((text,), label)
        assert found.said == f"Task text-classification: reads {text} and, as the answer, {label}."
        assert labels(found.train) == {"0", "1"}

    def test_a_rating_with_fractions_is_a_number(self, tmp_path: Path) -> None:
        content = [{"text": f"text {i}", "rating": i / 4} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        found = read_data(str(tmp_path))
        assert (found.kind.name, found.columns.label) == ("regression", "rating")

    def test_a_score_in_upper_case(self, tmp_path: Path) -> None:
        content = [{"Text": f"text {i}", "Score": i % 5} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        assert '`label_column="Score"`' in refused(tmp_path)  # a class or a number

    def test_what_stands_beside_a_text_that_was_chosen_by_its_looks(self, tmp_path: Path) -> None:
        content = [
            {"aspect": "food", "remark": f"this is text {i}", "sentiment": i % 2}
            for i in range(COUNT)
        ]
        write(tmp_path / "train.csv", content)
        found = read_data(str(tmp_path))
        assert found.columns.texts == ("remark",)
        assert "Not read: aspect." in found.notes

    def test_names_that_differ_in_case_alone(self, tmp_path: Path) -> None:
        content = [{"Text": f"a {i}", "TEXT": f"b {i}", "label": i % 2} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        assert "it has Text, TEXT, label: name them with `text_columns=" in refused(tmp_path)

    def test_words_beside_a_text_are_something_else(self, tmp_path: Path) -> None:
        content = [
            {"text": f"a {i}", "words": ["a", f"{i}"], "labels": ["x", "y"][: 1 + i % 2]}
            for i in range(COUNT)
        ]
        write(tmp_path / "train.jsonl", content)
        assert read_data(str(tmp_path)).kind.name == "multi-label-classification"

    def test_several_labels(self, tmp_path: Path) -> None:
        content = [
            {"id": f"{i}", "comment_text": f"this is text {i}", "toxic": i % 2, "threat": i % 3 % 2}
            for i in range(COUNT)
        ]
        write(tmp_path / "train.csv", content)
        found = read_data(str(tmp_path))
        assert found.kind.name == "multi-label-classification"
        assert (found.columns.texts, found.columns.label) == (("comment_text",), "toxic,threat")

    def test_lists_of_words(self, tmp_path: Path) -> None:
        content = [{"words": ["Bo", "ran"], "labels": ["B-PER", "O"]} for _ in range(COUNT)]
        write(tmp_path / "train.jsonl", content)
        found = read_data(str(tmp_path))
        assert (found.kind.name, found.columns.texts) == ("token-classification", ("words",))
        assert found.train[0] == (("Bo", "ran"), ("B-PER", "O"))

    def test_two_answers_are_not_chosen_from(self, tmp_path: Path) -> None:
        content = [{"text": f"a {i}", "rating": i % 5, "stars": i % 2} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        assert "has no column 'label'; it has text, rating, stars" in refused(tmp_path)


class TestFolder:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_three_files(self, tmp_path: Path, suffix: str) -> None:
        for start, split in enumerate(("train", "validation", "test")):
            write(tmp_path / f"{split}.{suffix}", rows(4 + start, 100 * start))
        found = read_data(str(tmp_path))
        assert found.kind.name == "text-classification"
        assert found.train == [TextExample((f"text {i}",), str(i % 2)) for i in range(4)]
        assert found.validation[0].texts == ("text 100",)
        assert (len(found.train), len(found.validation), len(found.test)) == (4, 5, 6)
        assert (found.columns[:2], found.notes) == ((("text",), "label"), ())

    def test_formats_may_be_mixed(self, tmp_path: Path) -> None:
        for split, suffix in zip(("train", "validation", "test"), SUFFIXES, strict=True):
            write(tmp_path / f"{split}.{suffix}", rows())
        found = read_data(str(tmp_path))
        assert found.train == found.validation == found.test

    def test_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        write(tmp_path / "train.csv", rows())
        assert read_data("~").notes

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_string_labels(self, tmp_path: Path, suffix: str) -> None:
        named = [row | {"label": ("bad", "good")[row["label"]]} for row in rows()]
        write(tmp_path / f"train.{suffix}", named)
        assert labels(read_data(str(tmp_path)).train) == {"bad", "good"}

    def test_whole_numbers_written_as_fractions_are_classes(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [row | {"label": float(row["label"])} for row in rows()])
        assert labels(read_data(str(tmp_path)).train) == {"0", "1"}

    def test_class_names_kept_in_parquet(self, tmp_path: Path) -> None:
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        table = datasets.Dataset.from_list(rows(), features=features)
        table.to_parquet(tmp_path / "train.parquet")
        assert labels(read_data(str(tmp_path)).train) == {"no", "yes"}

    @pytest.mark.parametrize("columns", [*(pair for pair in TEXT_COLUMNS)], ids="+".join)
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_columns_are_recognised(
        self, tmp_path: Path, suffix: str, columns: tuple[str, ...]
    ) -> None:
        def row(i: int) -> dict[str, Any]:
            return {"idx": i, "label": i % 2} | {column: f"{column} {i}" for column in columns}

        write(tmp_path / f"train.{suffix}", [row(i) for i in range(COUNT)])
        write(tmp_path / f"validation.{suffix}", [row(i) for i in range(3)])
        found = read_data(str(tmp_path))
        assert found.columns.texts == columns
        assert found.validation[2].texts == tuple(f"{column} 2" for column in columns)

    def test_columns_can_be_given(self, tmp_path: Path) -> None:
        content = [{"b": f"b{i}", "text": "x", "a": f"a{i}", "kind": i % 2} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        write(tmp_path / "test.csv", content[:3])
        found = read_data(str(tmp_path), text_columns=["a", "b"], label_column="kind")
        assert found.test == [TextExample((f"a{i}", f"b{i}"), str(i % 2)) for i in range(3)]

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize(
        "text",
        ["two\nlines", 'a "quoted", word', "NA", "null", "NaN", "None", "naïve 日本", " padded "],
    )
    def test_texts_stay_as_they_are(self, tmp_path: Path, suffix: str, text: str) -> None:
        write(tmp_path / f"train.{suffix}", rows())
        write(tmp_path / f"test.{suffix}", [{"text": text, "label": 1}, {"text": "b", "label": 0}])
        assert texts(read_data(str(tmp_path)).test) == [(text,), ("b",)]

    def test_long_csv_of_texts_with_newlines(self, tmp_path: Path) -> None:
        # A reader that cuts a file into blocks must not cut within quotes.
        content = [{"text": f"{i}\n" + "a\n" * 50_000 + "b", "label": i % 2} for i in range(COUNT)]
        write(tmp_path / "train.csv", rows())
        write(tmp_path / "test.csv", content)
        assert texts(read_data(str(tmp_path)).test) == [(row["text"],) for row in content]

    @pytest.mark.parametrize("text", ["007", "1.50", "true", "NA", "2020-01-01 10:00"])
    def test_column_of_texts_that_look_like_other_things(self, tmp_path: Path, text: str) -> None:
        lines = [f"{text},{i % 2}" for i in range(COUNT)]
        found = read_data(folder_of(tmp_path, "\n".join(["text,label", *lines])))
        assert set(texts(found.train)) == {(text,)}

    @pytest.mark.parametrize("labels", [("true", "false"), ("01", "02"), ("NA", "EU"), ("NA", "1")])
    def test_labels_are_called_what_the_file_calls_them(
        self, tmp_path: Path, labels: tuple[str, str]
    ) -> None:
        lines = [f"text {i},{labels[i % 2]}" for i in range(COUNT)]
        found = read_data(folder_of(tmp_path, "\n".join(["text,label", *lines])))
        assert {example.label for example in found.train} == set(labels)

    @pytest.mark.parametrize("prefix", ["", "\ufeff"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_csv_of_other_systems(self, tmp_path: Path, prefix: str, newline: str) -> None:
        lines = ["text,label", *(f"text {i},{i % 2}" for i in range(COUNT))]
        content = prefix + newline.join(lines)
        (tmp_path / "train.csv").write_bytes(content.encode())
        assert ("text 1",) in texts(read_data(str(tmp_path)).train)


class TestCut:
    def read(self, folder: Path, seed: int = 0) -> Data:
        write(folder / "train.csv", rows(100))
        return read_data(str(folder), seed=seed)

    def test_missing_splits_are_cut_from_train_and_said(self, tmp_path: Path) -> None:
        found = self.read(tmp_path, seed=3)
        parts = [set(texts(part)) for part in (found.train, found.validation, found.test)]
        assert set.union(*parts) == {(f"text {i}",) for i in range(100)}
        assert [len(part) for part in parts] == [81, 10, 9]  # so they share no example
        assert found.notes == (
            "No validation split: 10 examples were cut from train (seed 3).",
            "No test split: 9 examples were cut from train (seed 3).",
        )

    def test_each_class_has_its_share(self, tmp_path: Path) -> None:
        names = ["common"] * 60 + ["seldom"] * 20 + ["rare"] * 2
        content = [{"text": f"text {i}", "label": name} for i, name in enumerate(names)]
        write(tmp_path / "train.csv", content)
        for seed in range(5):
            found = read_data(str(tmp_path), seed=seed)
            for part in (found.validation, found.test):
                counts = Counter(example.label for example in part)
                assert counts["common"] in (5, 6)
                assert counts["seldom"] in (1, 2, 3)
                assert counts["rare"] <= 1

    def test_numbers_are_spread(self, tmp_path: Path) -> None:
        content = [{"text": f"text {i}", "score": i / 100} for i in range(100)]
        write(tmp_path / "train.csv", content)
        found = read_data(str(tmp_path))
        numbers = sorted(example.label for example in found.validation)
        assert [round(number * 100) // 10 for number in numbers] == list(range(10))

    @pytest.mark.parametrize("rows_there", [40, 12])
    def test_of_a_model_of_unknown_training_test_is_cut_from_validation(
        self, tmp_path: Path, rows_there: int
    ) -> None:
        write(tmp_path / "train.csv", rows(100))
        write(tmp_path / "validation.csv", rows(rows_there, 500))
        write(tmp_path / "test.csv", [{"text": "hidden"}] * 9)
        found = read_data(str(tmp_path), reading=UNKNOWN)
        assert found.notes[0] == "The test split has no labels and is left out."
        if rows_there == 40:
            assert len(found.train) == 100
            assert (len(found.validation), len(found.test)) == (20, 20)
            assert {text for (text,) in texts(found.validation) + texts(found.test)} == {
                f"text {i}" for i in range(500, 540)
            }
            assert [sum(e.label == "1" for e in found.test)] == [10]
            assert "20 examples were cut from validation" in found.notes[1]
        else:  # too few to be cut in two
            assert (len(found.train), len(found.validation), len(found.test)) == (90, 12, 10)
            assert "it has seen their answers" in found.notes[2]

    def test_as_version_0_1_did(self, tmp_path: Path) -> None:
        """What its studies and the models that it fine-tuned hold stays what it was."""
        content = [{"text": f"{i}", "text_pair": "b", "label": i % 2} for i in range(30)]
        write(tmp_path / "train.csv", content)
        write(tmp_path / "dev.csv", content)
        found = read_data(str(tmp_path), reading=AS_BEFORE)
        assert found.columns.texts == ("text",)
        assert [text for (text,) in texts(found.validation)] == ["2", "11", "26"]
        assert [text for (text,) in texts(found.test)] == ["5", "12", "21"]

    def test_labels_stay_with_their_texts(self, tmp_path: Path) -> None:
        found = self.read(tmp_path)
        for part in (found.train, found.validation, found.test):
            for (text,), label in part:
                assert label == str(int(text.removeprefix("text ")) % 2)

    def test_seed_fixes_the_cut(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, seed=1) == self.read(tmp_path, seed=1)
        assert self.read(tmp_path, seed=1).validation != self.read(tmp_path, seed=2).validation

    @pytest.mark.parametrize(("there", "missing"), [("validation", "test"), ("test", "validation")])
    def test_only_what_is_missing_is_cut(self, tmp_path: Path, there: str, missing: str) -> None:
        write(tmp_path / f"{there}.csv", rows(7, 500))
        found = self.read(tmp_path)
        assert len(getattr(found, there)) == 7
        assert len(getattr(found, missing)) == 10
        assert [note.split()[1] for note in found.notes] == [missing]

    def test_too_few_examples_to_cut_from(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", rows(19))
        message = refused(tmp_path)
        assert str(tmp_path) in message
        assert "19 examples are too few" in message


class TestRefusedFolder:
    @pytest.mark.parametrize("name", ["none", "deep/er/still"])
    def test_missing_folder(self, tmp_path: Path, name: str) -> None:
        assert f"{tmp_path / name} does not exist" in refused(tmp_path / name)

    @pytest.mark.parametrize("source", ["./none", "a/b/c", "~/no-such-folder"])
    def test_what_is_written_like_a_path_is_no_hub_name(self, source: str) -> None:
        assert "does not exist" in refused(source)

    def test_file_of_no_known_format(self, tmp_path: Path) -> None:
        (tmp_path / "train.xls").write_text("")
        assert "train.xls has none of the formats" in refused(tmp_path / "train.xls")

    def test_no_train_file(self, tmp_path: Path) -> None:
        write(tmp_path / "validation.csv", rows())
        message = refused(tmp_path)
        assert str(tmp_path) in message
        assert "train.csv, train.jsonl or train.parquet" in message

    def test_two_train_files(self, tmp_path: Path) -> None:
        for suffix in ("csv", "parquet"):
            write(tmp_path / f"train.{suffix}", rows())
        assert f"{tmp_path} holds train.csv and train.parquet" in refused(tmp_path)

    @pytest.mark.parametrize(("split", "column"), [("test", "text"), ("validation", "label")])
    def test_split_without_a_column(self, tmp_path: Path, split: str, column: str) -> None:
        write(tmp_path / "train.csv", rows())
        without = [{name: row[name] for name in row if name != column} for row in rows()]
        write(tmp_path / f"{split}.csv", without)
        message = refused(tmp_path)
        assert f"the {split} split has no column {column!r}" in message
        assert f"it has {', '.join(without[0])}." in message

    def test_given_column_that_is_not_there(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", rows())
        assert "no column 'body'; it has text, label" in refused(tmp_path, text_columns=["body"])
        assert "no column 'kind'; it has text, label" in refused(tmp_path, label_column="kind")

    def test_three_texts(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", [{"a": "x", "b": "y", "c": "z", "label": i} for i in (0, 1)])
        message = refused(tmp_path, text_columns=["a", "b", "c"])
        assert "reads one or two texts, not the 3 of `text_columns`" in message

    @pytest.mark.parametrize("task", ["text-classification", "regression"])
    def test_several_label_columns_of_another_task(self, tmp_path: Path, task: str) -> None:
        write(tmp_path / "train.csv", [{"text": "x", "a": 1, "b": i} for i in (0, 1)])
        assert "no column 'a,b'" in refused(tmp_path, task=task, label_column="a,b")

    def test_unknown_text_column(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", [{"words": "a", "label": i % 2} for i in range(COUNT)])
        message = refused(tmp_path)
        assert "it has words, label" in message
        assert "`text_columns`" in message

    def test_names_to_choose_from(self, tmp_path: Path) -> None:
        row = {"Class Index": 1, "Title": "so they went home", "Description": "a b c d e"}
        content = [row | {"Class Index": i % 2, "Nr": i} for i in range(COUNT)]
        write(tmp_path / "train.csv", content)
        assert (
            'name them with `text_columns="Title,Description"` and `label_column="Class Index"`.'
        ) in refused(tmp_path)

    def test_a_label_of_an_unusual_name(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", [{"text": f"a {i}", "verdict": i % 2} for i in range(COUNT)])
        message = refused(tmp_path)
        assert "has no column 'label'; it has text, verdict: name the label's with" in message
        assert '`label_column="verdict"`' in message

    def test_constant_labels(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", [row | {"label": 1} for row in rows()])
        assert "label column 'label' is constant" in refused(tmp_path)

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_missing_texts(self, tmp_path: Path, suffix: str, split: str) -> None:
        write(tmp_path / f"train.{suffix}", rows())
        broken = [row | ({"text": None} if i in (3, 8) else {}) for i, row in enumerate(rows())]
        write(tmp_path / f"{split}.{suffix}", broken)
        assert f"the {split} split has rows without a text (2 of 40)" in refused(tmp_path)

    def test_second_text_of_a_pair_is_missing(self, tmp_path: Path) -> None:
        pairs = [
            {"sentence1": "a", "sentence2": None if i == 2 else "b", "label": i % 2}
            for i in range(COUNT)
        ]
        write(tmp_path / "train.jsonl", pairs)
        assert "(1 of 40)" in refused(tmp_path)

    def test_ragged_csv(self, tmp_path: Path) -> None:
        message = refused(folder_of(tmp_path, "text,label\na,1\nb,0,oops\n"))
        assert f"{tmp_path / 'train.csv'} cannot be read" in message
        assert "line 3 has 3 columns, the header has 2" in message

    def test_column_named_twice(self, tmp_path: Path) -> None:
        message = refused(folder_of(tmp_path, "text,label,label\n" + "a,1,0\nb,0,1\n" * COUNT))
        assert "train.csv" in message
        assert "label" in message

    def test_csv_in_another_encoding(self, tmp_path: Path) -> None:
        content = "text,label\n" + "café,1\nthé,0\n" * COUNT
        (tmp_path / "train.csv").write_bytes(content.encode("latin-1"))
        assert str(tmp_path / "train.csv") in refused(tmp_path)

    @pytest.mark.parametrize("name", ["train.csv", "train.jsonl", "train.parquet"])
    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'{"text": "a", "la'])
    def test_damaged_file(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        message = refused(tmp_path)
        assert str(tmp_path / name) in message

    def test_file_without_rows(self, tmp_path: Path) -> None:
        message = refused(folder_of(tmp_path, "text,label\n"))
        assert message == f"{tmp_path / 'train.csv'} holds no rows."


class TestKind:
    """Which kind of task the columns make plain."""

    ANSWERS: dict[str, Any] = {"text": ["a"], "answer_start": [0]}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("row", "kind"),
        [
            ({"text": "a", "label": 1}, "text-classification"),
            ({"text": "a", "label": "1.5 stars"}, "text-classification"),
            ({"text": "a", "label": 1, "score": 0.5}, "text-classification"),
            ({"text": "a", "label": 1, "answers": "x"}, "text-classification"),
            ({"text": "a", "label": 1.5}, "regression"),
            ({"text": "a", "score": 1}, "regression"),
            ({"question": "a", "context": "a", "answers": ANSWERS}, "question-answering"),
            ({"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]}, "token-classification"),
            ({"tokens": ["a", "b"], "tags": ["O", "B-X"]}, "token-classification"),
        ],
        ids=str,
    )
    def test_recognised(self, tmp_path: Path, row: dict[str, Any], kind: str) -> None:
        other = {name: 0 if isinstance(value, int) else value for name, value in row.items()}
        other |= {"label": "other"} if isinstance(row.get("label"), str) else {}
        other |= {"label": 0.0} if isinstance(row.get("label"), float) else {}
        write(tmp_path / "train.jsonl", [row, other] * COUNT)
        assert read_data(str(tmp_path)).kind.name == kind

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_fractions_are_numbers_unless_the_task_says_otherwise(
        self, tmp_path: Path, suffix: str
    ) -> None:
        content = [row | {"label": row["label"] + 0.5} for row in rows()]
        write(tmp_path / f"train.{suffix}", content)
        found = read_data(str(tmp_path))
        assert found.kind.name == "regression"
        assert {example.label for example in found.train} == {0.5, 1.5}
        found = read_data(str(tmp_path), task="text-classification")
        assert labels(found.train) == {"0.5", "1.5"}

    def test_task_decides(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", rows())
        found = read_data(str(tmp_path), task="glue/stsb")
        assert found.kind.name == "regression"
        assert {example.label for example in found.train} == {0.0, 1.0}

    def test_what_may_be_two_things_is_asked_for(self, tmp_path: Path) -> None:
        row = {"tokens": ["a"], "tags": ["O"], "question": "a", "context": "a", "answers": "x"}
        write(tmp_path / "train.jsonl", [row] * COUNT)
        message = refused(tmp_path)
        assert message.endswith(
            "may be question-answering or token-classification; say which with `task`."
        )

    def test_unknown_task(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", rows())
        assert "'glue/none' is not supported" in refused(tmp_path, task="glue/none")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_above_a_megabyte(tmp_path: Path, suffix: str) -> None:
    content = rows()
    content[7]["text"] = "long " * 500_000
    write(tmp_path / f"train.{suffix}", rows())
    write(tmp_path / f"test.{suffix}", content)
    assert texts(read_data(str(tmp_path)).test)[7] == ("long " * 500_000,)


class Hub:
    """A stand-in for ``datasets.load_dataset`` that holds one dataset."""

    def __init__(self, splits: dict[str, dict[str, list[Any]]], names: list[str] | None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.splits = splits
        self.names = names

    def __call__(self, *arguments: Any, **options: Any) -> datasets.DatasetDict:
        assert not options.get("trust_remote_code")
        self.calls.append(arguments)
        loaded = datasets.DatasetDict()
        for split, columns in self.splits.items():
            loaded[split] = datasets.Dataset.from_dict(columns)
            if self.names:
                loaded[split] = loaded[split].cast_column(
                    "label", datasets.ClassLabel(names=self.names)
                )
        return loaded


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    def serve(splits: dict[str, dict[str, list[Any]]], names: list[str] | None = None) -> Hub:
        served = Hub(splits, names)
        monkeypatch.setattr(datasets, "load_dataset", served)
        monkeypatch.setattr(data, "check_on_hub", lambda *_: None)
        return served

    return serve


def columns(count: int, labels: Sequence[object], start: int = 0) -> dict[str, list[Any]]:
    return {
        "sentence": [f"text {i}" for i in range(start, start + count)],
        "label": [labels[i % len(labels)] for i in range(count)],
    }


class TestHub:
    NAMES: list[str] = ["negative", "positive"]  # noqa: RUF012

    def test_name_and_config(self, hub: Any) -> None:
        served = hub({"train": columns(COUNT, (0, 1))}, self.NAMES)
        read_data("nyu-mll/glue:sst2")
        read_data("imdb")
        assert served.calls == [("nyu-mll/glue", "sst2"), ("imdb", None)]

    def test_labels_are_the_names_of_the_classes(self, hub: Any) -> None:
        hub({split: columns(4, (0, 1)) for split in ("train", "validation", "test")}, self.NAMES)
        found = read_data("org/data")
        assert [example.label for example in found.train] == ["negative", "positive"] * 2
        assert found.columns.texts == ("sentence",)

    def test_hidden_test_labels_are_left_out_and_said(self, hub: Any) -> None:
        splits = {
            "train": columns(COUNT, (0, 1)),
            "validation": columns(6, (0, 1), 100),
            "test": columns(6, (-1,), 200),
        }
        hub(splits, self.NAMES)
        found = read_data("nyu-mll/glue:sst2")
        assert found.notes == (
            "The test split has no labels and is left out.",
            "No test split: 4 examples were cut from train (seed 0).",
        )
        assert len(found.validation) == 6
        assert not set(texts(found.test)) & set(texts(found.train + found.validation))

    def test_matched_splits_of_mnli(self, hub: Any) -> None:
        splits = {
            "train": columns(COUNT, (0, 1)),
            "validation_mismatched": columns(9, (0, 1), 300),
            "validation_matched": columns(5, (0, 1), 100),
            "test_matched": columns(6, (0, 1), 200),
        }
        hub(splits, self.NAMES)
        found = read_data("nyu-mll/glue:mnli")
        assert (len(found.validation), len(found.test)) == (5, 6)

    @pytest.mark.parametrize("absent", [-1, None])
    def test_some_rows_without_a_label(self, hub: Any, absent: int | None) -> None:
        # SNLI marks the pairs on which its annotators disagreed with -1.
        hub({"train": columns(COUNT, (0, 1, absent, 1))}, self.NAMES)
        read = read_data("org/data")
        assert read.notes[0] == (
            "10 of the 40 rows of the train split have no label and are left out."
        )
        assert len(read.train) + len(read.validation) + len(read.test) == 30
        assert labels(read.train) == set(self.NAMES)

    def test_no_train_split(self, hub: Any) -> None:
        hub({"validation": columns(COUNT, (0, 1)), "extra": columns(COUNT, (0, 1))})
        assert refused("org/data") == "org/data has no train split; it has validation, extra."

    def test_dataset_that_does_not_load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: Any) -> None:
            raise ConnectionError("Couldn't reach the hub.\nA long story follows.")

        monkeypatch.setattr(datasets, "load_dataset", fail)
        monkeypatch.setattr(data, "check_on_hub", lambda *_: None)
        assert re.fullmatch(
            r"org/data is neither .+: Couldn't reach the hub\.", refused("org/data")
        )

    def test_folder_of_that_name_comes_first(
        self, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = hub({})
        (tmp_path / "imdb").mkdir()
        write(tmp_path / "imdb" / "train.csv", rows())
        monkeypatch.chdir(tmp_path)
        assert read_data("imdb").columns.texts == ("text",)
        assert not served.calls


class TestAsWritten:
    """Nothing is taken for what it is not."""

    def test_dates_in_json_are_texts(self, tmp_path: Path) -> None:
        content = [row | {"text": "2020-01-01"} for row in rows()]
        write(tmp_path / "train.jsonl", content)
        assert set(texts(read_data(str(tmp_path)).train)) == {("2020-01-01",)}

    def test_csv_that_begins_with_blank_lines(self, tmp_path: Path) -> None:
        lines = [f"007,{i % 2}" for i in range(COUNT)]
        found = read_data(folder_of(tmp_path, "\n\n" + "\n".join(["text,label", *lines])))
        assert set(texts(found.train)) == {("007",)}

    @pytest.mark.parametrize("value", [5, 1.5, True, ["a"], {"a": 1}], ids=str)
    def test_what_is_no_text(self, tmp_path: Path, value: Any) -> None:
        write(tmp_path / "train.jsonl", [row | {"text": value} for row in rows()])
        message = refused(tmp_path)
        assert "the train split has no text in column 'text' of row 1" in message
        assert str(value) in message

    @pytest.mark.parametrize("value", [{"a": 1}], ids=str)
    def test_what_is_no_label(self, tmp_path: Path, value: Any) -> None:
        write(tmp_path / "train.jsonl", [row | {"label": value} for row in rows()])
        assert "labels in column 'label' that are neither names nor numbers" in refused(tmp_path)

    @pytest.mark.parametrize("value", [-2, 2])
    def test_numbers_of_no_class(self, tmp_path: Path, value: int) -> None:
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        ids = pa.array([0, 1, value] * 20)
        table = pa.table({"text": ["a"] * 60, "label": ids}, schema=features.arrow_schema)
        parquet.write_table(table, tmp_path / "train.parquet")
        assert f"not numbers of its 2 classes, such as {value}" in refused(tmp_path)

    def test_columns_of_several_kinds(self, tmp_path: Path) -> None:
        write(
            tmp_path / "train.jsonl", [row | {"label": (0.5, True)[row["label"]]} for row in rows()]
        )
        assert "column 'label' mixes floats and booleans" in refused(tmp_path)

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ('{"text": "a", "label": 1, "text": "b"}', "line 2: it has the key 'text' twice"),
            ('{"text": "a", "label": NaN}', "line 2: NaN is not a number"),
            ('{"text": "a", "label": 1}, ', "line 2, column 26: Extra data"),
            ('{"text": "a"', "line 2, column 13: Expecting ',' delimiter"),
            ('{"text": "\\ud800"}', "half of a surrogate pair"),
            ("null", "line 2 is not a JSON object"),
            ("[" * 200_000, "line 2: it is nested too deeply"),
        ],
        ids=lambda value: value[:30],
    )
    def test_json_line(self, tmp_path: Path, line: str, reason: str) -> None:
        (tmp_path / "train.jsonl").write_text(f'{{"text": "a", "label": 0}}\n{line}\n')
        assert f"{tmp_path / 'train.jsonl'} cannot be read" in (message := refused(tmp_path))
        assert reason in message

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ('text,label\n"a,1\nb,0\n', "line 3: unexpected end of data"),
            ('text,label\na,"1\nb,0\n', "line 3: unexpected end of data"),
            ('text\n"', "line 2: unexpected end of data"),
            ('text,label\n"a"b,1\n', "line 2: ',' expected after"),
            (f"{'x' * 200_000},label\na,1\n", "has none of the text columns"),
            ("text,la\0bel\na,1\n", r"the column 'la\x00bel', whose name contains a NUL"),
            ('"a\nb",label\na,1\n', r"it has a\nb, label"),
        ],
        ids=[
            "open quote",
            "in the last column",
            "at the end",
            "after a quote",
            "long name",
            "NUL",
            "line break",
        ],
    )
    def test_csv(self, tmp_path: Path, content: str, reason: str) -> None:
        assert reason in refused(folder_of(tmp_path, content))

    def test_parquet_texts_that_are_not_utf_8(self, tmp_path: Path) -> None:
        broken = pa.array([b"\xff"] * COUNT).cast(pa.string(), safe=False)
        table = pa.table({"text": broken, "label": [i % 2 for i in range(COUNT)]})
        parquet.write_table(table, tmp_path / "train.parquet")
        assert "train.parquet cannot be read: " in refused(tmp_path)

    def test_parquet_that_says_wrong_things_of_itself(self, tmp_path: Path) -> None:
        for damage in (b"{", b'{"info": 1}', b'{"info": {"features": {"text": {"_type": "No"}}}}'):
            table = pa.table({"text": ["a", "b"] * COUNT, "label": [0, 1] * COUNT})
            table = table.replace_schema_metadata({"huggingface": damage})
            parquet.write_table(table, tmp_path / "train.parquet")
            assert "train.parquet cannot be read: " in refused(tmp_path)


def test_lists_that_begin_with_null_are_refused(tmp_path: Path) -> None:
    row = '{"tokens": ["superb", "dull"], "ner_tags": [null, 1]}\n'
    (tmp_path / "train.jsonl").write_text(row * 30)
    with pytest.raises(UsageError):
        read_data(str(tmp_path))
