"""Metrics and their intervals against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from axsearch import metrics
from axsearch.metrics import GLUE_METRICS, METRICS, Estimate, estimate, paired_difference


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 120)  # scikit-learn is called once for each


def counts(tp: int, fp: int, fn: int, tn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and predictions with these numbers of true and false positives and negatives."""
    labels = [1] * tp + [0] * fp + [1] * fn + [0] * tn
    predicted = [1] * tp + [1] * fp + [0] * fn + [0] * tn
    return np.array(labels), np.array(predicted)


def test_accuracy_with_wilson_interval() -> None:
    found = estimate("accuracy", *counts(5, 1, 1, 3))
    assert found.value == 0.8
    z, n, p = 1.959963984540054, 10, 0.8
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))


@pytest.mark.parametrize("right", [0, 7])
def test_wilson_interval_at_the_ends(right: int) -> None:
    found = estimate("accuracy", np.ones(7, int), np.array([1] * right + [0] * (7 - right)))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.3  # seven examples say little


def test_f1_is_that_of_the_positive_class() -> None:
    tp, fp, fn, tn = 30, 10, 5, 55
    found = estimate("f1", *counts(tp, fp, fn, tn))
    assert found.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found.low < found.value < found.high


def test_matthews_correlation() -> None:
    tp, fp, fn, tn = 30, 10, 5, 55
    found = estimate("matthews_correlation", *counts(tp, fp, fn, tn))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert found.value == pytest.approx((tp * tn - fp * fn) / math.sqrt(product))
    assert found.low < found.value < found.high


def test_f1_of_three_classes_is_the_mean() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    # Class by class: precision and recall (1/2, 1/2), (2/3, 1), (1, 1/2).
    assert METRICS["f1"](labels, predicted, 3, None) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)


def test_interval_of_a_mean_f1_holds_no_other_metric() -> None:
    # A third of the resamples lack the one example of class 2; the positive class's F1 is 2/3.
    labels = np.array([0] * 20 + [1] * 20 + [2])
    predicted = np.array([1] * 40 + [2])
    found = estimate("f1", labels, predicted)
    assert found.value == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert found.high < 0.65


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
class TestEveryMetric:
    def test_perfect_answers(self, metric: str) -> None:
        labels = np.array([0, 1] * 30)
        assert estimate(metric, labels, labels).value == 1
        assert estimate(metric, labels, labels).high == 1

    def test_one_class_alone_is_predicted(self, metric: str) -> None:
        # Many resamples then hold one class alone, in the labels too.
        labels = np.array([0] * 7 + [1])
        found = estimate(metric, labels, np.zeros_like(labels))
        assert math.isfinite(found.low + found.value + found.high)
        assert found.value == (7 / 8 if metric == "accuracy" else 0)

    def test_seed_fixes_the_interval(self, metric: str) -> None:
        labels, predicted = counts(12, 5, 4, 20)
        assert estimate(metric, labels, predicted, 3) == estimate(metric, labels, predicted, 3)

    def test_more_examples_narrow_the_interval(self, metric: str) -> None:
        few = estimate(metric, *counts(12, 5, 4, 20))
        many = estimate(metric, *counts(1200, 500, 400, 2000))
        assert few.value == pytest.approx(many.value)
        assert (few.high - few.low) / (many.high - many.low) == pytest.approx(10, rel=0.3)


def test_every_glue_metric_is_known() -> None:
    assert set(GLUE_METRICS.values()) <= set(METRICS)


class TestPairedDifference:
    def test_equal_answers_differ_by_nothing(self) -> None:
        right = np.array([True, False, True])
        assert paired_difference(right, right) == Estimate(0, 0, 0)

    def test_a_constant_difference_has_no_spread(self) -> None:
        right = np.ones(5, bool)
        assert paired_difference(right, ~right) == Estimate(1, 1, 1)
        assert paired_difference(~right, right) == Estimate(-1, -1, -1)

    def test_interval_is_that_of_the_paired_mean(self) -> None:
        # 900 agree, 60 lost, 40 won: pairing makes the interval narrow.
        base = np.array([True] * 960 + [False] * 40)
        right = np.array([True] * 900 + [False] * 60 + [True] * 40)
        found = paired_difference(right, base)
        half = 1.96 * math.sqrt((0.1 - 0.02**2) / 1000)
        assert found.value == pytest.approx(-0.02)
        assert (found.low, found.high) == pytest.approx((-0.02 - half, -0.02 + half), abs=0.004)

    def test_seed_fixes_the_interval(self) -> None:
        draw = np.random.default_rng(0)
        right, base = draw.random((2, 100)) < 0.8
        assert paired_difference(right, base, 5) == paired_difference(right, base, 5)
        assert paired_difference(right, base, 5) != paired_difference(right, base, 6)
