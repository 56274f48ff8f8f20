"""Labels, heads and the names of tasks and metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from axsearch.errors import UsageError
from axsearch.statistics import metrics
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds import check_names, named_kind, resolve_metric, task_kinds
from axsearch.tasks.kinds.glue import GLUE
from axsearch.tasks.kinds.sequences import TextExample
from axsearch.tasks.kinds.text_classification import TextClassification
from axsearch.tasks.split import Split

KIND = TextClassification()


def examples(*labels: str) -> list[TextExample[str]]:
    return [TextExample(("a",), label) for label in labels]


def test_labels_of_a_new_head() -> None:
    labels = KIND.new_labels(examples("10", "9", "9"), examples("9"))
    assert labels == (("9", "10"), {"9": 0, "10": 1}, None)
    assert KIND.new_labels(examples("b", "a"), []).names == ("a", "b")


def test_a_class_of_which_nothing_can_be_learnt_is_said() -> None:
    labels = KIND.new_labels(examples("1", "2"), examples("7"))
    assert labels.names == ("1", "2", "7")
    assert labels.note == "Only in validation or test, so nothing can be learnt of it: '7'."


class TestData:
    def written(self, folder: Path, *lines: str) -> Path:
        (folder / "train.csv").write_text("".join(f"{line}\n" for line in lines))
        return folder

    def test_hidden_labels_that_pandas_wrote_as_fractions(self, tmp_path: Path) -> None:
        lines = [f"text {row},{row % 3}.0" for row in range(60)]
        self.written(tmp_path, "text,label", *lines, "text,-1.0", "text,")
        (tmp_path / "test.csv").write_text("text,label\na,-1.0\nb,-1.0\n")
        read = read_data(str(tmp_path))
        assert "The test split has no labels and is left out." in read.notes
        assert KIND.new_labels(read.train, read.validation).names == ("0.0", "1.0", "2.0")

    @pytest.mark.parametrize("label", ['"[0, 1]"', "\"['joy']\"", "[0 1 0]"])
    def test_lists_that_a_table_wrote_as_text(self, tmp_path: Path, label: str) -> None:
        """They would be read as names of classes."""
        lines = [f"text {row},{label if row % 2 else '[]'}" for row in range(60)]
        self.written(tmp_path, "text,labels", *lines)
        with pytest.raises(
            UsageError, match=r"lists that were written as text, such as.*JSON lines"
        ):
            read_data(str(tmp_path))

    def test_names_in_brackets_are_no_lists(self, tmp_path: Path) -> None:
        lines = [f"text {row},{'[urgent]' if row % 2 else '[later]'}" for row in range(60)]
        read = read_data(str(self.written(tmp_path, "text,label", *lines)))
        assert {example.label for example in read.train} == {"[urgent]", "[later]"}

    def test_a_table_without_names_of_columns(self, tmp_path: Path) -> None:
        lines = [f"this is text number {row},{row % 2}" for row in range(60)]
        with pytest.raises(UsageError, match="'this is text number 0', which looks like a row of"):
            read_data(str(self.written(tmp_path, *lines)))


class TestMetrics:
    def split(self, *labels: int, classes: int) -> Split:
        inputs = [{"input_ids": [1]}] * len(labels)
        return Split("search", inputs, np.array(labels), 0, tuple(map(str, range(classes))))

    def test_f1_of_two_classes_is_the_positive_ones(self) -> None:
        outcome = KIND.outcome("f1", self.split(1, 1, 0, 0, classes=2), [1, 0, 0, 1])
        assert metrics.value(outcome) == 0.5
        assert outcome.statistic == "f1"

    def test_f1_of_a_head_with_three_is_the_mean(self) -> None:
        # Whether or not the third class occurs: two models of a study must compare.
        split = self.split(1, 1, 0, 0, classes=3)
        assert {KIND.outcome("f1", split, a).statistic for a in ([1] * 4, [2] * 4)} == {"macro_f1"}

    def test_one_class_for_all_is_trivial_whichever_is_best(self) -> None:
        train = self.split(2, 2, 2, 0, 1, classes=3)
        split = self.split(2, 0, 0, 0, classes=3)
        assert KIND.trivial("accuracy", train, split) == 0.75
        assert KIND.trivial("matthews_correlation", train, split) == 0
        two = self.split(1, 0, 0, classes=2)
        assert KIND.trivial("f1", two, two) == 0.5  # all positive, though the other is commoner


class TestNames:
    @pytest.mark.parametrize(
        ("task", "metric", "chosen"),
        [
            ("text-classification", None, "accuracy"),
            ("regression", None, "pearson"),
            ("question-answering", None, "f1"),
            ("token-classification", None, "f1"),
            ("glue/cola", None, "matthews_correlation"),
            ("glue/mrpc", None, "f1"),
            ("glue/mrpc", "accuracy", "accuracy"),
            ("glue/stsb", None, "pearson"),
            ("glue/stsb", "spearman", "spearman"),
        ],
    )
    def test_metric_of_a_task(self, task: str, metric: str | None, chosen: str) -> None:
        check_names(task, metric)
        kind = named_kind(task)
        assert kind is not None
        assert resolve_metric(kind, task, metric) == chosen

    def test_metric_that_does_not_fit(self) -> None:
        with pytest.raises(UsageError, match="'pearson' does not fit text-classification; choose"):
            check_names("glue/cola", "pearson")

    def test_unknown_task(self) -> None:
        with pytest.raises(
            UsageError, match=r"'glue/none' is not supported; choose .*text-.*glue/sst2"
        ):
            check_names("glue/none", None)

    def test_unknown_metric(self) -> None:
        with pytest.raises(UsageError, match=r"'bleu' is not known; choose .*pearson.*accuracy"):
            check_names(None, "bleu")

    def test_glue_has_nine_tasks_with_metrics_of_their_kind(self) -> None:
        assert len(GLUE) == 9
        for task in GLUE.values():
            assert task.metric in task_kinds()[task.kind].metrics
