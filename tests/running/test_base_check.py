"""A base that answers no better than a constant, or better if its classes were in another order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluation
from axsearch.running.base_check import check_base
from axsearch.statistics.inference import estimate
from axsearch.tasks.kinds.labels import Labels, read_mapping
from axsearch.tasks.kinds.question_answering import QuestionAnswering
from axsearch.tasks.kinds.text_classification import TextClassification
from axsearch.tasks.kinds.token_classification import Sentences, TokenClassification
from axsearch.tasks.split import Split

TOPICS = ("art", "food", "law", "music", "sport", "travel")


def evaluator(
    kind: Any, split: Split, answers: Sequence[Any], labels: Labels, metric: str = "accuracy"
) -> Any:
    """What the check asks an evaluator for, of a base with these answers."""
    outcome = kind.outcome(metric, split, answers)
    task = SimpleNamespace(
        kind=kind, metric=metric, search=split, calibration=split, labels=labels,
        said=("Task so and so.",), notes=(),
    )  # fmt: skip
    return SimpleNamespace(
        task=task,
        accuracy=lambda recipe, split: Evaluation(*estimate(outcome), outcome, None),
        first_answers=lambda: answers,
    )


def topics(labels: Labels, share: float = 0.96, count: int = 120, seed: int = 0) -> Any:
    """A head whose class i is the i-th topic, of whose answers a share is right."""
    draw = np.random.default_rng(seed)
    there = draw.integers(6, size=count)
    said = np.where(draw.random(count) < share, there, draw.integers(6, size=count))
    targets = np.array([labels.ids[TOPICS[topic]] for topic in there])
    split = Split("search", [{"input_ids": [1]}] * count, targets, 0, labels.names)
    return evaluator(TextClassification(), split, said.tolist(), labels)


def in_order(*order: str) -> Labels:
    names = tuple(f"LABEL_{index}" for index in range(6))
    return Labels(names, {topic: index for index, topic in enumerate(order)})


def test_few_examples_may_be_the_reason() -> None:
    few = topics(in_order(*TOPICS), 0.4, count=12, seed=0)
    with pytest.raises(
        UsageError, match=r"not certainly better than.*give more examples or `force"
    ):
        check_base(few, force=False)
    check_base(topics(in_order(*TOPICS), 0.4, count=300, seed=0), force=False)


class TestOrder:
    def test_two_of_six_classes_in_each_others_place(self) -> None:
        misread = in_order("art", "food", "music", "law", "sport", "travel")
        with pytest.raises(UsageError) as caught:
            check_base(topics(misread), force=False)
        message = str(caught.value)
        found = re.search(r"accuracy (\S+) on the 120 .*but (\S+) if its classes", message)
        assert found is not None
        assert 0.5 < float(found[1]) < 0.7
        assert float(found[2]) > 0.85
        assert "no better than" not in message
        given = re.search(r'give `labels="(\S+)"`, or `force=True` if they are not', message)
        assert given is not None
        mapping = read_mapping(given[1].split(","))
        check_base(topics(in_order(*sorted(mapping, key=lambda m: int(mapping[m])))), force=False)

    def test_all_classes_in_another_order(self) -> None:
        turned = in_order("food", "law", "music", "sport", "travel", "art")
        with pytest.raises(UsageError, match=r"no better than one class for all .*, but 0\.9"):
            check_base(topics(turned), force=False)

    def test_it_can_be_forced(self, capsys: pytest.CaptureFixture[str]) -> None:
        misread = in_order("art", "food", "music", "law", "sport", "travel")
        check_base(topics(misread), force=True)
        assert "if its classes are in another order" in " ".join(capsys.readouterr().err.split())

    @pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
    def test_mistakes_are_no_other_order(self, share: float) -> None:
        for seed in range(20):
            check_base(topics(in_order(*TOPICS), share, seed=seed), force=False)

    @pytest.mark.parametrize(("classes", "share"), [(77, 0.4), (150, 0.4)])
    def test_nor_are_those_among_many_classes(self, classes: int, share: float) -> None:
        names = tuple(f"topic {number}" for number in range(classes))
        labels = Labels(names, {name: index for index, name in enumerate(names)})
        for seed in range(10):
            draw = np.random.default_rng(seed)
            there, others = draw.integers(classes, size=(2, 400))
            said = np.where(draw.random(400) < share, there, others)
            split = Split("search", [{"input_ids": [1]}] * 400, there, 0, names)
            check_base(evaluator(TextClassification(), split, said.tolist(), labels), force=False)

    def test_labels_that_a_command_line_would_take_apart(self) -> None:
        misread = in_order("art", "food", "music", "law", "sport", "travel")
        ids = {f"{topic}, etc.": index for topic, index in misread.ids.items()}
        asked = topics(misread)
        asked.task.labels = Labels(misread.names, ids)
        with pytest.raises(
            UsageError, match=r"`labels` read 'music, etc\.' as 3, 'law, etc\.' as 2"
        ):
            check_base(asked, force=False)

    def test_tags(self) -> None:
        names = ("O", "B-X", "I-X", "B-Y", "I-Y")
        gold = [[0, 1, 2, 0], [3, 4, 0, 0], [1, 0, 3, 0]] * 20
        swapped = [[(0, 3, 4, 1, 2)[tag] for tag in tags] for tags in gold]
        words = [[0, 1, 2, 3]] * 60
        split = Sentences("search", [], gold, 0, names, tags=gold, words=words)
        labels = Labels(names, {name: index for index, name in enumerate(names)})
        check_base(evaluator(TokenClassification(), split, gold, labels, "f1"), force=False)
        with pytest.raises(UsageError, match=r"`labels=\"O=0,B-Y=1,I-Y=2,B-X=3,I-X=4\"`"):
            check_base(evaluator(TokenClassification(), split, swapped, labels, "f1"), force=False)

    def test_kinds_without_classes_have_none(self) -> None:
        assert not QuestionAnswering().largest_logit
        assert QuestionAnswering().reordered(None, [], []) is None  # type: ignore[arg-type]
