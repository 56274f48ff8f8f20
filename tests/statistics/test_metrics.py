"""Metrics against their formulas, resamples against the libraries, intervals against theory."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from axsearch.statistics import inference
from axsearch.statistics.inference import (
    better_and_worse,
    estimate,
    holm,
    optimism,
    paired_difference,
    paired_error,
    paired_p_values,
)
from axsearch.statistics.metrics import STATISTICS, value
from axsearch.statistics.outcome import Estimate, Outcome


def outcome(statistic: str, count: int, seed: int = 0) -> Outcome:
    """Answers of a middling model."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2 if statistic == "f1" else 4, count)
    answers = np.where(draw.random(count) < 0.7, labels, draw.integers(0, labels.max() + 1, count))
    numbers = np.round(draw.random(count) * 5 * 4) / 4
    gold, predicted = draw.integers(0, 5, (2, count))
    counts = (np.minimum(gold, predicted) * draw.random(count)).astype(int)
    there = (draw.random((3, count)) < 0.4).astype(np.int8)
    columns: dict[str, tuple[NDArray[Any], ...]] = {
        "multi_label_macro_f1": (*there, *(there ^ (draw.random((3, count)) < 0.2))),
        "share": (counts, gold + 1),
        "entity_f1": (counts, predicted, gold),
        "pearson": (numbers, numbers + draw.normal(size=count)),
        "spearman": (numbers, np.exp(numbers + draw.normal(size=count))),
    }
    if statistic == "mean":
        return Outcome("mean", draw.random(count))
    return Outcome(statistic, np.stack(columns.get(statistic, (labels, answers)), axis=1))


def pairs(statistic: str, tp: int, fp: int, fn: int, tn: int) -> Outcome:
    """Labels and predictions with these numbers of true and false positives and negatives."""
    labels = [1] * tp + [0] * fp + [1] * fn + [0] * tn
    predicted = [1] * tp + [1] * fp + [0] * fn + [0] * tn
    return Outcome(statistic, np.array([labels, predicted]).T)


class TestValues:
    def test_f1_is_that_of_the_positive_class(self) -> None:
        assert value(pairs("f1", 30, 10, 5, 55)) == pytest.approx(60 / 75)

    def test_matthews_correlation(self) -> None:
        tp, fp, fn, tn = 30, 10, 5, 55
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        found = value(pairs("matthews_correlation", tp, fp, fn, tn))
        assert found == pytest.approx((tp * tn - fp * fn) / math.sqrt(product))

    def test_f1_of_three_classes_is_the_mean(self) -> None:
        answers = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [2, 2], [2, 0]])
        # Class by class: precision and recall (1/2, 1/2), (2/3, 1), (1, 1/2).
        found = value(Outcome("macro_f1", answers))
        assert found == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)

    def test_correlations(self) -> None:
        values = np.array([[1.0, 1.0], [2.0, 8.0], [3.0, 27.0], [4.0, 26.0]])
        assert value(Outcome("spearman", values)) == pytest.approx(1 - 6 * 2 / (4 * 15))
        assert value(Outcome("pearson", values)) == pytest.approx(np.corrcoef(values.T)[0, 1])

    def test_entities_and_shares_are_counted_over_all_examples(self) -> None:
        counts = np.array([[1, 2, 1], [0, 0, 3], [2, 2, 2]])
        assert value(Outcome("entity_f1", counts)) == pytest.approx(2 * 3 / (4 + 6))
        assert value(Outcome("share", np.array([[1, 2], [9, 10]]))) == pytest.approx(10 / 12)

    @pytest.mark.parametrize("statistic", sorted({*STATISTICS} - {"mean", "share"}))
    def test_what_is_not_defined_is_zero(self, statistic: str) -> None:
        width = outcome(statistic, 9).values.shape[1]
        row = [0, 0, 0, 1, 1, 1] if width == 6 else [0, 1, 1][:width]
        constant = np.array([row] * 9)
        found = estimate(Outcome(statistic, constant))
        assert found == Estimate(0, 0, 0)


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
class TestEveryStatistic:
    def test_resamples_equal_the_library(self, statistic: str) -> None:
        given = outcome(statistic, 200)
        drawn = np.random.default_rng(1).integers(0, 200, (20, 200))
        draws = np.stack([np.bincount(rows, minlength=200) for rows in drawn]).astype(np.float32)
        expected = [STATISTICS[statistic].value(given.values[rows]) for rows in drawn]
        found = STATISTICS[statistic].resampled(given.values)(draws)
        assert found.shape == (20,)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert np.std(expected) > 0.005

    def test_resamples_of_few_kinds_of_examples(self, statistic: str) -> None:
        # Resamples of one class alone, or of one example alone, are among them.
        given = outcome(statistic, 5, seed=3)
        drawn = np.random.default_rng(2).integers(0, 5, (60, 5))
        draws = np.stack([np.bincount(rows, minlength=5) for rows in drawn]).astype(np.float32)
        expected = [STATISTICS[statistic].value(given.values[rows]) for rows in drawn]
        found = STATISTICS[statistic].resampled(given.values)(draws)
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_interval_holds_the_value_and_narrows(self, statistic: str) -> None:
        few, many = (estimate(outcome(statistic, count)) for count in (400, 10_000))
        for found in (few, many):
            assert found.low < found.value < found.high
        assert (few.high - few.low) / (many.high - many.low) == pytest.approx(5, rel=0.35)

    def test_seed_fixes_the_interval(self, statistic: str) -> None:
        given = outcome(statistic, 60)
        assert estimate(given, 3) == estimate(given, 3)
        assert estimate(given, 3) != estimate(given, 4)

    def test_paired_difference(self, statistic: str) -> None:
        base, same = outcome(statistic, 300), outcome(statistic, 300)
        assert paired_difference(same, base) == Estimate(0, 0, 0)
        changed = Outcome(statistic, base.values.copy())
        changed.values[:20] = outcome(statistic, 300, seed=9).values[:20]
        found = paired_difference(changed, base)
        assert found.value == pytest.approx(value(changed) - value(base))
        assert found.low <= found.value <= found.high
        alone = estimate(base)
        assert 0 < found.high - found.low < 0.6 * (alone.high - alone.low)
        opposite = paired_difference(base, changed)
        assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low))

    def test_better_and_worse(self, statistic: str) -> None:
        base = outcome(statistic, 100)
        assert better_and_worse(base, base) == (0, 0)
        other = outcome(statistic, 100, seed=1)
        better, worse = better_and_worse(other, base)
        assert better > 0
        assert better_and_worse(base, other) == (worse, better)


class TestShareOfRightAnswers:
    def test_wilson_interval(self) -> None:
        found = estimate(Outcome("mean", np.array([True] * 8 + [False] * 2)))
        z, n, p = 1.959963984540054, 10, 0.8
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert found == pytest.approx((0.8, middle - half, middle + half))

    @pytest.mark.parametrize("right", [0, 7])
    def test_at_the_ends(self, right: int) -> None:
        found = estimate(Outcome("mean", np.arange(7) < right))
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.3  # seven examples say little

    def test_paired_interval(self) -> None:
        # 900 agree, 60 lost, 40 won: pairing makes the interval narrow.
        base = np.array([True] * 960 + [False] * 40)
        right = np.array([True] * 900 + [False] * 60 + [True] * 40)
        found = paired_difference(Outcome("mean", right), Outcome("mean", base))
        half = 1.96 * math.sqrt((0.1 - 0.02**2) / 1000)
        assert found.value == pytest.approx(-0.02)
        assert (found.low, found.high) == pytest.approx((-0.02 - half, -0.02 + half), abs=0.004)
        assert better_and_worse(Outcome("mean", right), Outcome("mean", base)) == (40, 60)

    def test_a_constant_difference_has_no_spread(self) -> None:
        right, wrong = (Outcome("mean", np.full(5, answer)) for answer in (True, False))
        assert paired_difference(right, wrong) == Estimate(1, 1, 1)
        assert paired_difference(wrong, right) == Estimate(-1, -1, -1)


def test_pearson_interval_is_fishers() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=2000)
    found = estimate(Outcome("pearson", np.stack((x, x + draw.normal(size=2000)), axis=1)))
    z, half = math.atanh(found.value), 1.96 / math.sqrt(1997)
    expected = (math.tanh(z - half), math.tanh(z + half))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.004)


def test_correlation_of_numbers_far_from_zero() -> None:
    # Squares of such numbers do not fit single precision.
    near = outcome("pearson", 300)
    far = Outcome("pearson", near.values * 1e-3 + 1e4)
    assert estimate(far) == pytest.approx(estimate(near), abs=1e-5)


def test_interval_of_a_mean_f1_holds_no_other_metric() -> None:
    # A third of the resamples lack the one example of class 2; the positive class's F1 is 2/3.
    labels = np.array([0] * 20 + [1] * 20 + [2])
    predicted = np.array([1] * 40 + [2])
    found = estimate(Outcome("macro_f1", np.stack((labels, predicted), axis=1)))
    assert found.value == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert found.high < 0.65


@pytest.mark.parametrize("statistic", sorted({*STATISTICS} - {"spearman"}))
def test_an_interval_costs_little(statistic: str) -> None:
    given = outcome(statistic, 5000)
    inference._draws(5000, inference.RESAMPLES, 0)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        estimate(given)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.2  # 50 ms where nothing else runs


def test_outcomes_survive_packing() -> None:
    for given in (outcome(statistic, 100) for statistic in STATISTICS):
        again = Outcome.unpacked(given.statistic, given.packed())
        assert again.values.dtype == given.values.dtype
        np.testing.assert_array_equal(again.values, given.values)
    right = Outcome("mean", np.random.default_rng(0).random(5000) < 0.8)
    assert len(right.packed()) < 2000


def brute_force(ours: Outcome, base: Outcome, resamples: int = 700) -> float:
    """The standard error of the difference, drawing examples one resample at a time."""
    draw = np.random.default_rng(1)
    found = []
    for number in range(resamples):
        rows = draw.integers(len(ours), size=len(ours))
        drawn = [Outcome(o.statistic, o.values[rows]) for o in (ours, base)]
        both = [value_of_each_once(one) for one in drawn]
        if number % 35 == 0:
            assert both == pytest.approx([value(one) for one in drawn], abs=1e-5)
        found.append(both[0] - both[1])
    return float(np.std(found))


def value_of_each_once(outcome: Outcome) -> float:
    """The metric of a resample that has each example once: the libraries take a millisecond."""
    once = np.ones((1, len(outcome)), np.float32)
    return float(STATISTICS[outcome.statistic].resampled(outcome.values)(once)[0])


@pytest.mark.parametrize("statistic", STATISTICS)
def test_paired_error_is_that_of_a_bootstrap(statistic: str) -> None:
    count = 300
    first, second = outcome(statistic, count, 0), outcome(statistic, count, 1)
    # Most of the answers are the same, as those of a smaller model are.
    values = np.where(
        (np.arange(count) % 5 > 0).reshape((-1,) + (1,) * (first.values.ndim - 1)),
        first.values,
        second.values,
    )
    if statistic in ("f1", "macro_f1", "matthews_correlation", "pearson", "spearman"):
        values[:, 0] = first.values[:, 0]  # the labels are the same
    ours = Outcome(statistic, values)
    difference, error = paired_error(ours, first)
    assert difference == pytest.approx(value(ours) - value(first), abs=1e-9)
    assert error == pytest.approx(brute_force(ours, first), rel=0.15)
    assert error > 0


@pytest.mark.parametrize("count", [10, 100, 1000])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_paired_error_of_answers_that_all_agree_is_that_of_one(statistic: str, count: int) -> None:
    same = outcome(statistic, count, 0)
    difference, error = paired_error(same, same)
    assert difference == 0
    assert 1 / count <= error < 4 / count


def test_paired_error_of_a_mean_is_never_below_the_bootstrap_s() -> None:
    draw = np.random.default_rng(0)
    for count in (20, 80):
        for _ in range(5):
            ours, base = (Outcome("mean", draw.random(count) < p) for p in (0.8, 0.85))
            assert paired_error(ours, base)[1] > 0.95 * brute_force(ours, base, 1000)


def test_paired_error_is_small_where_answers_go_together() -> None:
    draw = np.random.default_rng(0)
    base = Outcome("mean", draw.random(1000) < 0.8)
    flipped = base.values.copy()
    flipped[:10] ^= True
    together = paired_error(Outcome("mean", flipped), base)[1]
    apart = paired_error(Outcome("mean", draw.permutation(base.values)), base)[1]
    assert together < apart / 4


def right(*answers: object) -> Outcome:
    return Outcome("mean", np.concatenate([np.array(part, dtype=bool) for part in answers]))


class TestPairedPValues:
    def test_right_answers_are_compared_by_mcnemars_exact_test(self) -> None:
        # 7 examples that the first alone answers rightly, 2 that the second alone does.
        first = right(np.ones(7), np.zeros(2), np.ones(50))
        second = right(np.zeros(7), np.ones(2), np.ones(50))
        found = paired_p_values([first, second])
        expected = stats.binomtest(2, 9).pvalue
        assert found == pytest.approx(np.array([[1, expected], [expected, 1]]))

    def test_equal_answers_and_as_many_each_way_do_not_differ(self) -> None:
        same = right(np.ones(5), np.zeros(5))
        swapped = right(np.zeros(5), np.ones(5))
        assert (paired_p_values([same, same, swapped]) == 1).all()

    @pytest.mark.parametrize("statistic", sorted(STATISTICS))
    def test_every_statistic_tells_a_good_model_from_a_bad_one(self, statistic: str) -> None:
        good = outcome(statistic, 400)
        bad = good.values.copy()
        shuffled = np.random.default_rng(1).permutation(len(bad))
        if bad.ndim == 1:
            bad = bad * 0.5
        elif statistic in ("share", "entity_f1"):
            bad[:, 0] //= 2
        else:
            bad[:, 1] = bad[shuffled, 1]
        found = paired_p_values([good, Outcome(statistic, bad), good])
        assert found[0, 1] < 1e-4
        assert found == pytest.approx(found.T)
        assert found[0, 2] == 1

    def test_of_a_metric_that_is_no_mean_the_error_is_the_paired_one(self) -> None:
        first, second = outcome("f1", 300, 0), outcome("f1", 300, 0)
        second.values[:9, 1] = 1 - second.values[:9, 1]
        difference, error = paired_error(first, second)
        found = paired_p_values([first, second])[0, 1]
        assert found == pytest.approx(2 * stats.norm.sf(abs(difference) / error), rel=0.05)

    def test_equals_are_found_different_as_often_as_the_level_says(self) -> None:
        draw, found = np.random.default_rng(0), []
        for _ in range(400):
            base = draw.random(400) < 0.8
            flips = draw.random((2, 400)) < 0.1
            found.append(paired_p_values([right(base ^ flip) for flip in flips])[0, 1])
        assert 0.01 < np.mean(np.array(found) < 0.05) < 0.06  # an exact test keeps below it


class TestHolm:
    def test_an_example_by_hand(self) -> None:
        # 0.01 * 4, 0.015 * 3 raised to that of the one before, 0.03 * 2, 0.5
        found = holm(np.array([0.03, 0.01, 0.5, 0.015]))
        assert found == pytest.approx([0.06, 0.04, 0.5, 0.045])

    def test_a_larger_one_is_never_below_a_smaller_one_and_none_above_1(self) -> None:
        given = np.random.default_rng(0).random(50) ** 4
        found = holm(given)
        assert (np.diff(found[np.argsort(given)]) >= 0).all()
        assert (found >= given).all()
        assert found.max() <= 1

    def test_of_nothing_is_nothing(self) -> None:
        assert len(holm(np.array([]))) == 0


class TestOptimism:
    def test_it_is_the_difference_of_differences(self) -> None:
        base, member = right(np.ones(80), np.zeros(20)), right(np.ones(85), np.zeros(15))
        later, then = right(np.ones(70), np.zeros(30)), right(np.ones(72), np.zeros(28))
        (lost,), mean = optimism([base, member], [later, then])
        assert lost.value == pytest.approx(0.05 - 0.02)
        assert lost == mean
        assert lost.low < lost.value < lost.high

    def test_only_the_holdout_examples_are_resampled(self) -> None:
        draw = np.random.default_rng(0)
        base, member = (right(draw.random(50) < share) for share in (0.8, 0.6))
        same = right(draw.random(300) < 0.9)
        (lost,), _ = optimism([base, member], [same, same])
        assert lost.low == lost.value == lost.high  # on the holdout split they never differ

    def test_a_split_that_is_harder_for_all_is_no_bias(self) -> None:
        base = np.random.default_rng(0).random(300) < 0.9
        harder = np.random.default_rng(1).random(300) < 0.6
        _, mean = optimism([right(base)] * 3, [right(harder)] * 3)
        assert mean == Estimate(0, 0, 0)

    def test_the_mean_of_several_is_narrower_than_each_where_they_differ(self) -> None:
        draw = np.random.default_rng(0)

        def split() -> list[Outcome]:
            base = draw.random(400) < 0.8
            return [right(base)] + [right(base ^ (draw.random(400) < 0.1)) for _ in range(6)]

        each, mean = optimism(split(), split())
        assert mean.high - mean.low < min(one.high - one.low for one in each)
        assert mean.value == pytest.approx(np.mean([one.value for one in each]))


class TestCoverage:
    """Of 2,000 draws from a population, how many intervals hold its value: 95 %, by 2."""

    @staticmethod
    def covered(found: list[Estimate], truth: float) -> float:
        assert len(found) == 2000
        return float(np.mean([one.low <= truth <= one.high for one in found]))

    @pytest.mark.parametrize(("examples", "truth"), [(1000, 0.86), (872, 0.92), (1200, 0.6)])
    def test_of_accuracy(self, examples: int, truth: float) -> None:
        draw = np.random.default_rng(0)
        found = [estimate(right(draw.random(examples) < truth)) for _ in range(2000)]
        assert 0.93 <= self.covered(found, truth) <= 0.97

    @pytest.mark.parametrize(
        ("statistic", "truth"), [("f1", 0.85), ("matthews_correlation", 0.7), ("pearson", 0.8)]
    )
    def test_of_metrics_by_bootstrap(
        self, statistic: str, truth: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The interval does not need it, and the libraries take a millisecond for it.
        monkeypatch.setattr(inference, "value", lambda outcome: 0.0)
        draw = np.random.default_rng(0)

        def drawn() -> Outcome:
            if statistic == "pearson":
                x = draw.normal(size=300)
                y = truth * x + math.sqrt(1 - truth**2) * draw.normal(size=300)
                return Outcome(statistic, np.stack((x, y), axis=1))
            gold = draw.random(300) < 0.5  # 15 % wrong: F1 0.85, correlation 0.7
            predicted = gold ^ (draw.random(300) < 0.15)
            return Outcome(statistic, np.stack((gold, predicted), axis=1).astype(np.int64))

        found = [estimate(drawn()) for _ in range(2000)]
        assert 0.93 <= self.covered(found, truth) <= 0.97

    def test_of_the_difference_to_the_base(self) -> None:
        draw, found = np.random.default_rng(0), []
        for _ in range(2000):
            base = draw.random(300) < 0.86
            found.append(paired_difference(right(base ^ (draw.random(300) < 0.03)), right(base)))
        assert 0.93 <= self.covered(found, 0.03 * (1 - 2 * 0.86)) <= 0.97

    def test_of_the_selection_bias_of_the_best_of_many(self) -> None:
        """What the search split showed of the chosen models, above what is true of them."""
        draw, covered, shown = np.random.default_rng(0), 0, []
        truth = 0.05 * (1 - 2 * 0.86)  # of every candidate's difference to the base
        for _ in range(2000):
            base = draw.random(300) < 0.86
            candidates = base ^ (draw.random((30, 300)) < 0.05)
            best = np.argsort(-candidates.mean(axis=1))[:3]
            later = draw.random(300) < 0.86
            holdout = [right(later), *(right(later ^ (draw.random(300) < 0.05)) for _ in best)]
            search = [right(base), *(right(candidates[i]) for i in best)]
            bias = float(candidates[best].mean() - base.mean()) - truth
            found = optimism(search, holdout)[1]
            covered += found.low <= bias <= found.high
            shown.append(bias)
        assert np.mean(shown) > 0.01  # there is a bias to be found
        assert 0.93 <= covered / 2000 <= 0.97
