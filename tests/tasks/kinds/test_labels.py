"""Which class of a head each label of the data is."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import BertConfig

from axsearch.errors import UsageError
from axsearch.tasks.kinds.labels import (
    LabelHints,
    best_order,
    fit_labels,
    new_labels,
    read_mapping,
)

HEAD = BertConfig(id2label={0: "NEGATIVE", 1: "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1})
GENERIC = BertConfig(num_labels=3)


def head(*names: str) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})


SENTIMENT = ("negative", "positive")


def test_names_of_the_config_come_first() -> None:
    config = BertConfig(id2label={0: "1", 1: "0"}, label2id={"1": 0, "0": 1})
    assert fit_labels(config, ["0", "1", "1"]) == (("1", "0"), {"0": 1, "1": 0}, None)


def test_numbers_are_class_ids() -> None:
    names = ("LABEL_0", "LABEL_1", "LABEL_2")
    assert fit_labels(GENERIC, ["2", "0"]) == (names, {"2": 2, "0": 0}, None)
    assert fit_labels(HEAD, ["0", "1"]).ids == {"0": 0, "1": 1}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["NEGATIVE", "POSITIVE"], ["negative", "positive"]),
        (["not_entailment", "entailment"], ["not entailment", "Entailment"]),
        (["Very-Good", "bad"], ["very_good", "BAD"]),
        (["b-per", "O"], ["B-PER", "O"]),
    ],
)
def test_names_match_whatever_their_case_and_dashes(names: list[str], labels: list[str]) -> None:
    config = BertConfig(
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    found = fit_labels(config, labels)
    assert found.ids == {label: index for index, label in enumerate(labels)}
    assert found.note is not None
    assert "regardless of case" in found.note


@pytest.mark.parametrize(
    ("names", "labels"),
    [(["a-b", "ab"], ["A_B", "x"]), (["us", "US"], ["Us"]), (["x", "y"], ["X", "x", "y"])],
)
def test_names_that_would_become_the_same_are_not_matched(
    names: list[str], labels: list[str]
) -> None:
    config = BertConfig(
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    with pytest.raises(UsageError, match="do not fit the model's head"):
        fit_labels(config, labels)


class TestCounts:
    STARS = head("1 star", "2 stars", "3 stars")

    @pytest.mark.parametrize(
        "labels", [["1", "2", "3"], ["1", "3"], ["1.0", "3.0"], ["1 star", "2 star"], ["3Star"]]
    )
    def test_labels_that_count_what_the_classes_count(self, labels: list[str]) -> None:
        found = fit_labels(self.STARS, labels)
        assert found.ids == {label: int(label[0]) - 1 for label in labels}
        assert found.note is not None
        assert f"matched by their numbers: {labels[0]} as " in found.note

    @pytest.mark.parametrize("labels", [["0", "2"], ["1", "2"]])
    def test_numbers_that_may_be_ids_are(self, labels: list[str]) -> None:
        """The base shows which they are: it is compared with each order of its classes."""
        found = fit_labels(self.STARS, labels)
        assert (found.ids, found.note) == ({label: int(label) for label in labels}, None)

    @pytest.mark.parametrize("labels", [["4"], ["2 votes"], ["2 stars", "2"], ["2 to 3 stars"]])
    def test_others(self, labels: list[str]) -> None:
        with pytest.raises(UsageError, match="do not fit the model's head"):
            fit_labels(self.STARS, [*labels, "3"])

    @pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1", "LABEL_2"), ("a", "b", "c")])
    @pytest.mark.parametrize("labels", [["1", "2", "3"], ["3", "1"], ["3.0"]])
    def test_labels_that_count_classes_from_one(
        self, names: tuple[str, ...], labels: list[str]
    ) -> None:
        found = fit_labels(head(*names), labels)
        assert found.ids == {label: int(label[0]) - 1 for label in labels}
        assert found.note is not None
        assert "as counted from 1: " in found.note
        assert f"{max(labels)} as {names[2]}" in found.note

    @pytest.mark.parametrize("labels", [["0", "3"], ["1", "4"], ["1", "x"]])
    def test_labels_that_do_not(self, labels: list[str]) -> None:
        with pytest.raises(UsageError, match="do not fit the model's head"):
            fit_labels(GENERIC, labels)

    @pytest.mark.parametrize(
        ("config", "labels"),
        [
            (BertConfig(), ["False", "True"]),
            (head("ham", "spam"), ["false", "true"]),
            (head("0", "1"), ["FALSE", "TRUE"]),
            (head("spam", "ham"), ["False"]),
            (head("no", "yes"), ["false", "true"]),
        ],
    )
    def test_false_and_true_of_two_classes(self, config: BertConfig, labels: list[str]) -> None:
        found = fit_labels(config, labels)
        assert found.ids == {label: index for index, label in enumerate(labels)}
        assert found.note is not None
        assert "as no and yes: " in found.note

    @pytest.mark.parametrize(
        "names", [("yes", "no"), ("entailment", "not_entailment"), ("toxic", "non-toxic")]
    )
    def test_false_and_true_where_the_classes_may_be_the_other_way_round(
        self, names: tuple[str, str]
    ) -> None:
        with pytest.raises(UsageError, match="do not fit the model's head"):
            fit_labels(head(*names), ["False", "True"])

    def test_what_is_matched_is_said_beside_a_contradiction(self) -> None:
        config = BertConfig(id2label={0: "a", 1: "b"}, label2id={"a": 1, "b": 0})
        note = fit_labels(config, ["1", "2"]).note
        assert note is not None
        assert "contradict each other" in note
        assert "as counted from 1: 1 as a, 2 as b" in note

    @pytest.mark.parametrize("labels", [["False", "no"], ["True", "true"]])
    def test_half_of_them(self, labels: list[str]) -> None:
        with pytest.raises(UsageError, match="do not fit the model's head"):
            fit_labels(BertConfig(), labels)
        with pytest.raises(UsageError, match="do not fit the model's head"):
            fit_labels(GENERIC, ["False", "True"])


class TestClassesOfTheData:
    def test_their_ids_are_those_of_a_head_without_names(self) -> None:
        found = fit_labels(BertConfig(), ["positive", "negative"], LabelHints(SENTIMENT))
        assert found.ids == {"negative": 0, "positive": 1}
        assert found.note == (
            "The head's classes have no names, so ids are those of the data: "
            "0 is negative, 1 is positive."
        )

    def test_not_those_of_a_head_with_names(self) -> None:
        classes = ("positive", "negative")  # the other way round
        assert fit_labels(HEAD, ["negative"], LabelHints(classes)).ids == {"negative": 0}
        with pytest.raises(UsageError, match="do not fit"):
            fit_labels(HEAD, ["bad", "good"], LabelHints(("bad", "good")))

    def test_ids_that_are_named_by_numbers(self) -> None:
        found = fit_labels(BertConfig(), ["0", "1"], LabelHints(("0", "1")))
        assert (found.ids, found.note) == ({"0": 0, "1": 1}, None)

    def test_more_classes_than_the_head_has(self) -> None:
        with pytest.raises(UsageError, match="data have 3 classes, the model's head 2"):
            fit_labels(BertConfig(), ["a"], LabelHints(("a", "b", "c")))


class TestNoGoldLabel:
    def test_beside_the_ids_of_all_classes(self) -> None:
        assert fit_labels(BertConfig(), ["-1", "0", "1"]).ids == {"0": 0, "1": 1}

    @pytest.mark.parametrize(
        ("classes", "labels"), [(2, ["-1", "1"]), (3, ["-1", "0", "1"]), (3, ["-1", "0"])]
    )
    def test_never_where_it_may_be_a_class(self, classes: int, labels: list[str]) -> None:
        with pytest.raises(UsageError, match="do not fit the model's head"):
            fit_labels(BertConfig(num_labels=classes), labels)

    @pytest.mark.parametrize("labels", [["-1", "negative", "positive"], ["-1", "0", "1", "2"]])
    def test_beside_names_and_more_ids(self, labels: list[str]) -> None:
        config = HEAD if "negative" in labels else GENERIC
        assert "-1" not in fit_labels(config, labels).ids
        assert new_labels(labels, [], LabelHints()).names == tuple(labels[1:])

    def test_beside_labels_that_are_mapped(self) -> None:
        hints = LabelHints(mapping={"0": "1", "1": "0"})
        assert fit_labels(HEAD, ["-1", "0", "1"], hints).ids == {"0": 1, "1": 0}
        assert new_labels(["-1", "0", "1"], [], LabelHints()).names == ("-1", "0", "1")

    def test_a_sign_is_no_dash(self) -> None:
        config = head("0", "1")
        with pytest.raises(UsageError, match="do not fit"):
            fit_labels(config, ["-1", "0"])

    def test_not_where_it_is_one(self) -> None:
        config = BertConfig(id2label={0: "-1", 1: "1"}, label2id={"-1": 0, "1": 1})
        assert fit_labels(config, ["-1", "1"]).ids == {"-1": 0, "1": 1}


def test_id2label_counts_where_the_maps_contradict_each_other() -> None:
    config = BertConfig(
        id2label={0: "negative", 1: "positive"}, label2id={"positive": 0, "negative": 1}
    )
    found = fit_labels(config, SENTIMENT)
    assert found.ids == {"negative": 0, "positive": 1}
    assert found.note is not None
    assert "contradict each other, as for 'negative'" in found.note


class TestMapping:
    def test_ids_and_names(self) -> None:
        for given in (
            ["bad=0", "good=1"],
            ["bad=NEGATIVE", "good=POSITIVE"],
            ["bad=0", "good=POSITIVE"],
        ):
            hints = LabelHints(mapping=read_mapping(given))
            assert fit_labels(HEAD, ["bad", "good"], hints).ids == {"bad": 0, "good": 1}

    def test_it_comes_before_names(self) -> None:
        hints = LabelHints(mapping=read_mapping(["NEGATIVE=1", "POSITIVE=0"]))
        assert fit_labels(HEAD, ["NEGATIVE", "POSITIVE"], hints).ids == {
            "NEGATIVE": 1,
            "POSITIVE": 0,
        }

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["bad"], "not 'bad'"),
            (["=0"], "not '=0'"),
            (["bad="], "not 'bad='"),
            (["bad=0", "bad=1"], "not 'bad=1'"),
        ],
    )
    def test_another_form(self, given: list[str], said: str) -> None:
        with pytest.raises(UsageError, match=f"`labels` takes each label .*{said}"):
            read_mapping(given)

    def test_labels_that_no_row_has(self) -> None:
        hints = LabelHints(mapping={"negative": "1", "positive": "0"})
        with pytest.raises(UsageError, match="names 'negative', 'positive', but the labels of the"):
            fit_labels(HEAD, ["0", "1"], hints)

    def test_a_label_may_contain_an_equals_sign(self) -> None:
        assert read_mapping(["a=b=1"]) == {"a=b": "1"}

    @pytest.mark.parametrize("target", ["2", "NEUTRAL", "-1"])
    def test_a_class_that_the_head_does_not_have(self, target: str) -> None:
        hints = LabelHints(mapping={"bad": target, "good": "1"})
        with pytest.raises(UsageError, match="names no class of the model's head for 'bad'"):
            fit_labels(HEAD, ["bad", "good"], hints)

    def test_of_a_new_head(self) -> None:
        by_id = new_labels(["no", "yes"], [], LabelHints(mapping={"yes": "0", "no": "1"}))
        assert by_id == (("yes", "no"), {"yes": 0, "no": 1}, None)
        by_name = new_labels(["0", "1"], [], LabelHints(mapping={"0": "bad", "1": "good"}))
        assert by_name == (("bad", "good"), {"0": 0, "1": 1}, None)
        joined = new_labels(["1", "2", "3"], [], LabelHints(mapping={"1": "a", "2": "a", "3": "b"}))
        assert joined == (("a", "b"), {"1": 0, "2": 0, "3": 1}, None)

    @pytest.mark.parametrize(
        ("mapping", "said"),
        [({"no": "0"}, "it lacks 'yes'"), ({"no": "0", "yes": "2"}, "must be 0 to 1, not 0, 2")],
    )
    def test_of_a_new_head_that_does_not_fit(self, mapping: dict[str, str], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            new_labels(["no", "yes"], [], LabelHints(mapping=mapping))


@pytest.mark.parametrize("found", [["0", "3"], ["good", "bad"], ["0", "good"], ["²", "0"]])
def test_labels_that_do_not_fit_name_both_sides_and_the_option(found: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        fit_labels(GENERIC, found)
    message = str(caught.value)
    assert "do not fit the model's head, which knows 'LABEL_0', 'LABEL_1', 'LABEL_2'" in message
    assert all(repr(label) in message for label in found)
    assert f'`labels="{sorted(found)[0]}=0,{sorted(found)[1]}=1"`' in message


@pytest.mark.parametrize(
    ("names", "labels", "example"),
    [
        (
            ["contradiction", "entailment", "neutral"],
            ["contradictory", "entailment", "neutral"],
            "contradictory=contradiction",
        ),
        (["O", "B-X", "I-X"], ["<pad>", "B-X", "I-X", "O"], "<pad>=O"),
        (["a", "b", "c"], ["a", "x", "y", "z"], "x=c,y=b"),
    ],
)
def test_the_example_names_the_labels_that_do_not_fit(
    names: list[str], labels: list[str], example: str
) -> None:
    with pytest.raises(UsageError) as caught:
        fit_labels(head(*names), labels)
    assert f'`labels="{example}"`' in str(caught.value)


def test_class_ids_that_pandas_wrote_as_fractions() -> None:
    assert fit_labels(GENERIC, ["2.0", "0.0"]).ids == {"2.0": 2, "0.0": 0}
    for wrong in ("0.5", "3.0", "-2.0"):
        with pytest.raises(UsageError, match="do not fit"):
            fit_labels(GENERIC, [wrong, "0.0"])


@pytest.mark.parametrize(
    ("answered", "expected", "order"),
    [
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([0, 1, 2, 2], [0, 2, 1, 1], [0, 2, 1]),
        ([0, 1, 2], [1, 2, 0], [1, 2, 0]),
        ([0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 2]),  # nothing is won
        ([], [], [0, 1, 2]),
        ([2, 2], [0, 0], [2, 1, 0]),
    ],
)
def test_the_order_in_which_classes_fit_labels_best(
    answered: list[int], expected: list[int], order: list[int]
) -> None:
    assert best_order(np.array(answered, int), np.array(expected, int), 3) == order


def test_only_the_first_labels_are_shown() -> None:
    with pytest.raises(UsageError, match=r"\('class 0', .*'class 5', …\) do not fit"):
        fit_labels(BertConfig(), [f"class {i}" for i in range(9)])
