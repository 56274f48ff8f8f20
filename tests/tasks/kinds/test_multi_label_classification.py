"""Lists of labels, columns of 0 and 1, and heads that answer several labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers import BertConfig

from axsearch import Task
from axsearch.errors import UsageError
from axsearch.statistics import metrics
from axsearch.tasks.data import Data, read_data
from axsearch.tasks.kinds.labels import LabelHints
from axsearch.tasks.kinds.multi_label_classification import MultiLabelClassification
from axsearch.tasks.split import Split
from axsearch.testing.samples import rows, with_head, write_data, write_rows
from axsearch.testing.text import tiny_bert, tiny_tokenizer

KIND = MultiLabelClassification()


def read(folder: Path, content: list[dict[str, Any]], **given: Any) -> Data:
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", content)
    return read_data(str(folder), **given)


def found(data: Data) -> list[tuple[str, ...]]:
    assert data.kind.name == KIND.name
    return [example.label for example in data.train]


class TestData:
    @pytest.mark.parametrize("column", ["label", "labels"])
    def test_lists_of_names(self, tmp_path: Path, column: str) -> None:
        content = [{"text": "a", column: names} for names in (["b", "a"], [], ["a"])]
        assert found(read(tmp_path, content)) == [("a", "b"), (), ("a",)]

    @pytest.mark.parametrize(
        ("lists", "labels"),
        [
            ([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [("0", "2"), ()]),
            ([[1, 0, 1], [0, 1, 0]], [("0", "2"), ("1",)]),
            ([[True, False], [False, True]], [("0",), ("1",)]),
            ([[0, 2], [1]], [("0", "2"), ("1",)]),  # ids
            ([[2, 0], [0, 1]], [("0", "2"), ("0", "1")]),
            ([["1", "0", "1"], ["0", "0", "0"]], [("0", "2"), ()]),
        ],
        ids=str,
    )
    def test_lists_of_numbers(
        self, tmp_path: Path, lists: list[list[Any]], labels: list[tuple[str, ...]]
    ) -> None:
        assert found(read(tmp_path, [{"text": "a", "labels": one} for one in lists])) == labels

    def test_lists_of_named_ids(self, tmp_path: Path) -> None:
        names = datasets.Sequence(datasets.ClassLabel(names=["joy", "anger"]))
        features = datasets.Features({"text": datasets.Value("string"), "labels": names})
        content = [{"text": "a", "labels": ids} for ids in ([1, 0], [1], [])] * 20
        datasets.Dataset.from_list(content, features=features).to_parquet(
            tmp_path / "train.parquet"
        )
        data = read_data(str(tmp_path))
        assert data.classes == ("joy", "anger")
        assert set(found(data)) == {("anger", "joy"), ("anger",), ()}

    @pytest.mark.parametrize("given", [None, "toxic,rude"])
    @pytest.mark.parametrize("values", [("0", "1"), (0, 1), (0.0, 1.0), (False, True)], ids=str)
    def test_columns_of_0_and_1(self, tmp_path: Path, given: str | None, values: Any) -> None:
        no, yes = values
        content = [
            {"id": f"x{i}", "text": "a", "toxic": yes, "rude": yes if i else no} for i in range(2)
        ]
        data = read(tmp_path, content, label_column=given)
        assert found(data) == [("toxic",), ("rude", "toxic")]
        assert data.classes == ("toxic", "rude")

    def test_a_column_that_is_not_0_or_1(self, tmp_path: Path) -> None:
        content = [{"text": "a", "toxic": i, "rude": 1} for i in range(3)]
        with pytest.raises(UsageError, match="in column 'toxic' that are not 0 or 1, such as '2'"):
            read(tmp_path, content, label_column="toxic,rude")

    @pytest.mark.parametrize("value", [{"a": 1}, [[1]], [None]], ids=str)
    def test_what_is_no_list_of_labels(self, tmp_path: Path, value: Any) -> None:
        content = [{"text": "a", "labels": value}] * 3
        with pytest.raises(UsageError, match="that are not lists of names or numbers"):
            read(tmp_path, content, task=KIND.name)

    def test_all_splits_are_read_in_one_way(self, tmp_path: Path) -> None:
        lists = {"train": [[0, 1], [1, 1]], "validation": [[0, 1], [1, 0]], "test": [[1, 0]]}
        for split, own in lists.items():
            write_rows(tmp_path / f"{split}.jsonl", [{"text": "a", "labels": one} for one in own])
        data = read_data(str(tmp_path))
        assert [example.label for example in data.validation] == [("1",), ("0",)]

    def test_a_split_of_empty_lists(self, tmp_path: Path) -> None:
        for split, own in (("train", [["a"], ["b"]]), ("validation", [[], []]), ("test", [["a"]])):
            write_rows(tmp_path / f"{split}.jsonl", [{"text": "x", "labels": one} for one in own])
        assert [example.label for example in read_data(str(tmp_path)).validation] == [(), ()]

    def test_hidden_labels(self, tmp_path: Path) -> None:
        data = read(tmp_path, [{"text": "a", "labels": one} for one in ([0], [1, 2], [-1])])
        assert found(data) == [("0",), ("1", "2")]
        for path in tmp_path.iterdir():
            path.unlink()
        columns = [{"text": "a", "x": i, "y": 1} for i in (0, 1, -1)]
        assert found(read(tmp_path, columns, label_column="x,y")) == [("y",), ("x", "y")]

    def test_flags_beside_a_label_are_no_labels(self, tmp_path: Path) -> None:
        content = [
            {"text": "a", "sentiment": "good" if i else "bad", "is_reply": i, "has_url": 1}
            for i in (0, 1)
        ]
        data = read(tmp_path, content)
        assert (data.kind.name, data.columns.label) == ("text-classification", "sentiment")

    def test_rows_without_labels_are_left_out(self, tmp_path: Path) -> None:
        content = [{"text": "a", "labels": one} for one in (["x"], None, [])]
        data = read(tmp_path, content)
        assert found(data) == [("x",), ()]
        assert data.notes[0].startswith("1 of the 3 rows of the train split have no label")

    def test_labels_of_a_new_head_are_in_the_order_of_the_classes(self, tmp_path: Path) -> None:
        content = [{"text": "a", "zeal": 1, "anger": i} for i in (0, 1)]
        data = read(tmp_path, content)
        assert KIND.new_labels(data.train, [], LabelHints(data.classes)).names == ("zeal", "anger")


class TestHead:
    def test_never_taken_for_one_answer(self, tmp_path: Path) -> None:
        model, data = tmp_path / "model", tmp_path / "data"
        with_head(KIND.name, tiny_bert()).save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
        data.mkdir()
        write_data("text-classification", data)
        with pytest.raises(
            UsageError, match=r"a head for multi-label-classification .*not fit text"
        ):
            Task.load(str(model), str(data))

    @pytest.mark.parametrize("problem", [None, "single_label_classification"])
    def test_a_head_for_one_answer(self, problem: str | None) -> None:
        with pytest.raises(UsageError, match="does not fit multi-label-classification"):
            KIND.check_config("m", BertConfig(problem_type=problem))

    def test_loss_is_that_of_transformers(self) -> None:
        model = with_head(KIND.name, tiny_bert())
        content = rows(KIND.name, 8, 0)
        examples = KIND.examples(
            "x", "train", datasets.Dataset.from_list(content),
            KIND.columns("x", datasets.Dataset.from_list(content), None, None),
        )  # fmt: skip
        assert examples is not None
        labels = KIND.labels(model.config, examples)
        split = KIND.split("search", examples, tiny_tokenizer(), 48, labels)
        targets = split.collate_targets(range(8))
        outputs = model(**split.collate(range(8)), labels=targets)
        mine = KIND.losses(outputs.logits, targets)
        assert mine.mean().item() == pytest.approx(outputs.loss.item(), rel=1e-6)

    def test_divergence_is_that_of_the_probabilities(self) -> None:
        base, ours = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
        expected = sum(
            torch.distributions.kl_divergence(
                torch.distributions.Bernoulli(logits=base[:, i]),
                torch.distributions.Bernoulli(logits=ours[:, i]),
            )
            for i in range(3)
        )
        torch.testing.assert_close(KIND.divergence(ours, base, torch.zeros(5, 3)), expected)

    def test_the_loss_by_labels_is_what_the_divergence_from_certain_outputs_is(self) -> None:
        ours = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]])
        certain = 40 * (2 * labels - 1)
        torch.testing.assert_close(
            KIND.label_losses(ours, labels), KIND.divergence(ours, certain, labels)
        )


class TestMetrics:
    def split(self, targets: Any) -> Split:
        there = np.array(targets, np.float32)
        names = tuple(map(str, range(there.shape[1])))
        return Split("search", [{"input_ids": [1]}] * len(there), there, 0, names)

    @pytest.mark.parametrize("average", ["micro", "macro"])
    def test_f1_is_scikit_learns(self, average: str) -> None:
        draw = np.random.default_rng(0)
        there, said = draw.random((2, 200, 4)) < [0.5, 0.1, 0.3, 0.0]
        answers = [tuple(np.flatnonzero(row)) for row in said]
        outcome = KIND.outcome(f"{average}_f1", self.split(there), answers)
        expected = f1_score(there, said, average=average, zero_division=0)
        assert metrics.value(outcome) == pytest.approx(expected)

    def test_trivial_answers_are_the_most_frequent_labels(self) -> None:
        train = self.split([[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]])
        answers = [answer[0] for answer in KIND.trivial_answers(train, train)]
        assert answers == [(1,), (1, 0), (1, 0, 2)]
        # One and two labels for all: 2 x 4 / (4 + 7), 2 x 6 / (8 + 7).
        assert KIND.trivial("micro_f1", train, train) == pytest.approx(12 / 15)


def test_a_task_of_a_model_with_a_sigmoid_head(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    with_head(KIND.name, tiny_bert()).save_pretrained(model)
    assert json.loads((model / "config.json").read_text())["problem_type"].startswith("multi")
    tiny_tokenizer().save_pretrained(model)
    data.mkdir()
    task = Task.load(str(model), str(write_data(KIND.name, data)))
    assert (task.kind.name, task.metric) == (KIND.name, "micro_f1")
    assert task.search.targets.shape == (60, 3)  # type: ignore[union-attr]
