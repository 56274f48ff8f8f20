"""Numbers in place of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from axsearch.errors import UsageError
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds.labels import Labels
from axsearch.tasks.kinds.regression import Regression
from axsearch.tasks.kinds.sequences import TextExample
from axsearch.testing.samples import rows, write_rows
from axsearch.testing.text import tiny_tokenizer, write_csv

KIND = Regression()


def refused(folder: Path, content: list[dict[str, Any]], **arguments: Any) -> str:
    write_rows(folder / "train.jsonl", content)
    with pytest.raises(UsageError) as caught:
        read_data(str(folder), **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_of_a_csv_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [("a", "1e-1"), ("b", "-2")] * 20, ("text", "score"))
    write_csv(tmp_path / "test.csv", [("a", "4.750"), ("b", "3")], ("text", "score"))
    assert read_data(str(tmp_path)).test == [TextExample(("a",), 4.75), TextExample(("b",), 3.0)]


@pytest.mark.parametrize("wrong", ["high", "inf", "1,5", "1_0", "٣", [1.0], True])
def test_labels_that_are_no_numbers(tmp_path: Path, wrong: Any) -> None:
    if not isinstance(wrong, str):
        content = [row | {"score": wrong} for row in rows(KIND.name, 30, 0)]
    else:
        content = [row | {"score": str(row["score"])} for row in rows(KIND.name, 30, 0)]
        content[3]["score"] = wrong
    message = refused(tmp_path, content)
    assert "labels in column 'score' that are not numbers" in message
    assert f"such as {wrong!r}" in message


def test_missing_and_constant_labels(tmp_path: Path) -> None:
    content = rows(KIND.name, 30, 0)
    content[3]["score"] = None
    write_rows(tmp_path / "train.jsonl", content)
    read = read_data(str(tmp_path))
    assert len(read.train) + len(read.validation) + len(read.test) == 29
    assert read.notes[0].startswith("1 of the 30 rows of the train split have no label")
    content = [row | {"score": 2.5} for row in content]
    assert "label column 'score' is constant" in refused(tmp_path, content)


def test_hidden_labels_of_glue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def columns(count: int, label: float | None) -> datasets.Dataset:
        return datasets.Dataset.from_dict({
            "sentence1": ["a"] * count, "sentence2": ["b"] * count,
            "label": [i / 4 if label is None else label for i in range(count)],
        })  # fmt: skip

    hub = {"train": columns(40, None), "validation": columns(9, None), "test": columns(5, -1.0)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(hub))
    monkeypatch.setattr("axsearch.tasks.data.check_on_hub", lambda *_: None)
    read = read_data("nyu-mll/glue:stsb", task="glue/stsb")
    assert read.kind.name == "regression"
    assert read.notes[0] == "The test split has no labels and is left out."
    assert read.columns[:2] == (("sentence1", "sentence2"), "label")


def test_loss_is_the_squared_error() -> None:
    class Output:
        logits = torch.tensor([[1.0], [2.0]])

    assert KIND.loss(Output, torch.tensor([1.5, 4.0])).item() == 0.25 + 4


def test_labels_keep_their_precision() -> None:
    examples = [TextExample(("word1",), 0.1), TextExample(("word2",), 1 / 3)]
    split = KIND.split("search", examples, tiny_tokenizer(), 9, Labels((), {}))
    outcome = KIND.outcome("pearson", split, [1.0, 2.0])
    np.testing.assert_array_equal(outcome.values, [[0.1, 1.0], [1 / 3, 2.0]])
    assert json.loads(json.dumps(split.collate_targets([1]).tolist())) == [pytest.approx(1 / 3)]
