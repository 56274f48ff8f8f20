"""The statistics behind all metrics: their values, and 95 % intervals by a paired bootstrap.

A metric's value comes from the library that defines it, except for F1 of entities, which is counted
here as seqeval defines it. Its interval needs the metric of a thousand resamples; they follow, all
at once, from how often each example was drawn.

scikit-learn and scipy's statistics are imported where they are called: they take a second, and
what a study has stored is compared without them.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr

from axsearch.statistics.outcome import Estimate, Outcome

CONFIDENCE = 0.95
RESAMPLES = 1000
BLOCK = 50
"""Resamples computed at once; their data then stays in the processor's cache."""

ROUNDING = 1e-6
"""A variance up to this counts as zero: the numbers are near one, in single precision."""

Values = NDArray[Any]
Floats = NDArray[np.float64]
Draws = NDArray[np.float32]
"""How often each example was drawn, (resamples, examples)."""


@dataclass(frozen=True)
class Statistic:
    """How a metric is computed from the contributions of the examples.

    Attributes:
        value: the metric of examples' values, (examples, columns), as its library defines it.
        resampled: from the same values, a function of draws that returns the metric of each
            resample, (resamples,), equal to ``value`` of the drawn examples.
        each: how well each example was answered, (examples,); more is better.
    """

    value: Callable[[Values], float]
    resampled: Callable[[Values], Callable[[Draws], Floats]]
    each: Callable[[Values], Values]


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient; 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _summed(columns: Values) -> Callable[[Draws], Floats]:
    # Single precision represents counts exactly and halves the memory traffic.
    single = columns.astype(np.float32)
    return lambda draws: (draws @ single).astype(np.float64)


def _mean(values: Values) -> Callable[[Draws], Floats]:
    sums = _summed(values)
    return lambda draws: sums(draws) / len(values)


def _share(values: Values) -> Callable[[Draws], Floats]:
    sums = _summed(values)

    def resampled(draws: Draws) -> Floats:
        right, all_of_them = sums(draws).T
        return _ratio(right, all_of_them)

    return resampled


def _counts_f1(values: Values) -> Callable[[Draws], Floats]:
    sums = _summed(values)

    def resampled(draws: Draws) -> Floats:
        right, predicted, gold = sums(draws).T
        return _ratio(2 * right, predicted + gold)

    return resampled


def _binary_f1(values: Values) -> Callable[[Draws], Floats]:
    gold, predicted = values[:, 0] == 1, values[:, 1] == 1
    return _counts_f1(np.stack((gold & predicted, predicted, gold), axis=1))


def _by_class(values: Values) -> tuple[Values, Values]:
    """Whether each example is in each class, by label and by prediction: (examples, classes)."""
    classes = np.unique(values)
    return values[:, :1] == classes, values[:, 1:] == classes


def _macro_f1(values: Values) -> Callable[[Draws], Floats]:
    gold, predicted = _by_class(values)
    rights, boths = _summed(gold & predicted), _summed(gold.astype(np.int8) + predicted)

    def resampled(draws: Draws) -> Floats:
        right, both = rights(draws), boths(draws)
        there = (both > 0).sum(axis=1)  # the mean is over the classes present in a resample
        return _ratio(_ratio(2 * right, both).sum(axis=1), there.astype(np.float64))

    return resampled


def _matthews(values: Values) -> Callable[[Draws], Floats]:
    # Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation".
    golds, predictions = map(_summed, _by_class(values))
    right, size = _summed(values[:, 0] == values[:, 1]), float(len(values))

    def resampled(draws: Draws) -> Floats:
        gold, predicted = golds(draws), predictions(draws)
        spread = (size**2 - (gold**2).sum(1)) * (size**2 - (predicted**2).sum(1))
        return _ratio(right(draws) * size - (gold * predicted).sum(1), np.sqrt(spread))

    return resampled


def _standardised(column: Values) -> Floats:
    # Sums of squares in single precision need numbers near one.
    spread = column.std()
    return np.asarray((column - column.mean()) / (spread if spread > 0 else 1.0), np.float64)


def _pearson(values: Values) -> Callable[[Draws], Floats]:
    x, y = _standardised(values[:, 0]), _standardised(values[:, 1])
    sums = _summed(np.stack((x, y, x * x, y * y, x * y), axis=1))

    def resampled(draws: Draws) -> Floats:
        mean_x, mean_y, xx, yy, xy = sums(draws).T / len(values)
        var_x, var_y = xx - mean_x**2, yy - mean_y**2
        varies = (var_x > ROUNDING) & (var_y > ROUNDING)
        spread = np.sqrt(var_x * var_y, out=np.zeros_like(xy), where=varies)
        return _ratio(xy - mean_x * mean_y, spread)

    return resampled


def _spearman(values: Values) -> Callable[[Draws], Floats]:
    columns = [_Ranks(column) for column in values.T]

    def resampled(draws: Draws) -> Floats:
        # One example per row, so that sums and look-ups run over all resamples side by side.
        drawn = np.ascontiguousarray(draws.T)
        x, y = (column.of(drawn) for column in columns)
        weighted = drawn * x
        xx, xy = np.einsum("er,er->r", weighted, x), np.einsum("er,er->r", weighted, y)
        yy = np.einsum("er,er,er->r", drawn, y, y)
        varies = (xx > ROUNDING) & (yy > ROUNDING)
        return _ratio(xy, np.sqrt(xx * yy, out=np.zeros_like(xy), where=varies))

    return resampled


class _Ranks:
    """Ranks within resamples; equal values share the mean of their ranks."""

    def __init__(self, column: Values) -> None:
        self.order = np.argsort(column, kind="stable")
        ordered = column[self.order]
        new = np.r_[True, ordered[1:] != ordered[:-1]]
        self.starts, self.group = np.flatnonzero(new), np.cumsum(new) - 1

    def of(self, drawn: Draws) -> Draws:
        """Ranks from -1 to 1, with mean 0; both arrays are (examples, resamples)."""
        tied = drawn[self.order]
        if len(self.starts) < len(tied):
            tied = np.add.reduceat(tied, self.starts, axis=0)
        middle = np.cumsum(tied, axis=0)
        middle *= 2
        middle -= tied
        middle /= len(drawn)
        middle -= 1
        ranks = np.empty_like(drawn)
        ranks[self.order] = middle[self.group] if len(middle) < len(drawn) else middle
        return ranks


def _quietly(score: Callable[[Values], float]) -> Callable[[Values], float]:
    # Libraries warn if a metric is 0 or undefined because there is only one class; 0 is intended.
    def value(values: Values) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = float(score(values))
        return found if np.isfinite(found) else 0.0

    return value


def _entity_f1(values: Values) -> float:
    right, predicted, gold = (int(total) for total in values.sum(axis=0))
    if not right:
        return 0.0
    precision, recall = right / predicted, right / gold
    return 2 * precision * recall / (precision + recall)


def _f1(average: str) -> Callable[[Values], float]:
    def score(values: Values) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(values[:, 0], values[:, 1], average=average, zero_division=0.0))

    return score


def _matthews_value(values: Values) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(values[:, 0], values[:, 1]))


def _pearson_value(values: Values) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(values[:, 0], values[:, 1]).statistic)


def _spearman_value(values: Values) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(values[:, 0], values[:, 1]).statistic)


def _right(values: Values) -> Values:
    return np.asarray(values[:, 0] == values[:, 1])


def _nearness(values: Values) -> Values:
    return np.asarray(-np.abs(values[:, 0] - values[:, 1]))


def _own_f1(values: Values) -> Values:
    right, predicted, gold = values.T
    return np.where(predicted + gold > 0, _ratio(2.0 * right, predicted + gold), 1.0)


STATISTICS: dict[str, Statistic] = {
    # one column: the example's own score
    "mean": Statistic(lambda v: float(v.mean()), _mean, lambda v: v),
    # two columns: how many were right, and out of how many
    "share": Statistic(
        lambda v: float(v[:, 0].sum() / v[:, 1].sum()), _share, lambda v: v[:, 0] / v[:, 1]
    ),
    # three columns: entities predicted correctly, predicted, and in the labels
    "entity_f1": Statistic(_entity_f1, _counts_f1, _own_f1),
    # two columns: label and prediction
    "f1": Statistic(_quietly(_f1("binary")), _binary_f1, _right),
    "macro_f1": Statistic(_quietly(_f1("macro")), _macro_f1, _right),
    "matthews_correlation": Statistic(_quietly(_matthews_value), _matthews, _right),
    "pearson": Statistic(_quietly(_pearson_value), _pearson, _nearness),
    "spearman": Statistic(_quietly(_spearman_value), _spearman, _nearness),
}
"""Every statistic by name. Higher is better, and an undefined metric is 0."""


def value(outcome: Outcome) -> float:
    """The metric, as its library defines it."""
    return STATISTICS[outcome.statistic].value(outcome.values)


def estimate(outcome: Outcome, seed: int = 0) -> Estimate:
    """The metric with its interval: Wilson's for a share of right answers, otherwise a bootstrap.

    The bootstrap is a percentile bootstrap over examples; ``seed`` fixes the resamples.
    """
    found = value(outcome)
    if outcome.values.dtype == bool:
        from scipy.stats import binomtest

        right = int(outcome.values.sum())
        interval = binomtest(right, len(outcome)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(found, float(interval.low), float(interval.high))
    return Estimate(found, *_interval(_resampled(outcome, seed)))


def paired_difference(outcome: Outcome, base: Outcome, seed: int = 0) -> Estimate:
    """The metric minus the base's on the same examples, with a paired bootstrap interval.

    Both outcomes are of one metric on one split; a resample draws the same examples of both.
    """
    assert outcome.statistic == base.statistic
    assert len(outcome) == len(base)
    difference = _resampled(outcome, seed) - _resampled(base, seed)
    return Estimate(value(outcome) - value(base), *_interval(difference))


def paired_error(outcome: Outcome, base: Outcome) -> tuple[float, float]:
    """The metric minus the base's on the same examples, and the standard error of that difference.

    The error is that of a paired bootstrap plus the effect of one more example that differs, since
    a few examples that all agree prove nothing. One example moves a mean by 1/n, and a metric with
    spread s over n examples by about 2 s / sqrt(n), which is the same for a share of one half.
    """
    ours = _resampled(outcome, 0)
    count = len(outcome)
    one_more = max(1 / count, 2 * float(ours.std()) / math.sqrt(count))
    error = math.hypot(float((ours - _resampled(base, 0)).std()), one_more)
    return value(outcome) - value(base), error


def paired_p_values(outcomes: Sequence[Outcome]) -> Floats:
    """The two-sided p-value of each pair of models, if they were equally good: (models, models).

    If an answer is right or wrong, this is McNemar's exact test (McNemar 1947, Psychometrika 12):
    an example that only one of the two models answers correctly is equally likely to be either
    model's. For other metrics the difference is assumed to be normal, with the standard error of
    :func:`paired_error`. All outcomes are of one metric on one split.
    """
    if all(outcome.values.dtype == bool for outcome in outcomes):
        right = np.array([outcome.values for outcome in outcomes], dtype=np.float64)
        won = np.rint(right @ (1 - right).T).astype(np.int64)
        lesser, differ = np.minimum(won, won.T), won + won.T
        return np.where(differ > 0, np.minimum(2 * bdtr(lesser, differ, 0.5), 1), 1)
    resamples = np.array([_resampled(outcome, 0) for outcome in outcomes])
    values, count = np.array([value(outcome) for outcome in outcomes]), len(outcomes[0])
    one_more = np.maximum(1 / count, 2 * resamples.std(axis=1) / math.sqrt(count))
    spread = np.cov(resamples, ddof=0).reshape(len(outcomes), len(outcomes))
    variance = np.maximum(np.diag(spread)[:, None] + np.diag(spread) - 2 * spread, 0)
    error = np.sqrt(variance + np.maximum(one_more[:, None], one_more) ** 2)
    p_values: Floats = np.minimum(2 * ndtr(-np.abs(values[:, None] - values) / error), 1)
    return p_values


def holm(p_values: Floats) -> Floats:
    """P-values adjusted for the number of comparisons, so that the family-wise error is controlled.

    Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6: the smallest is multiplied by the number of comparisons, the next by one less.

    Args:
        p_values: (comparisons,).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return adjusted


def optimism(
    search: Sequence[Outcome], holdout: Sequence[Outcome], seed: int = 0
) -> tuple[list[Estimate], Estimate]:
    """By how much the search split overstates the models' gains over the base.

    A gain is the difference to the base on the same examples, so a split that is harder for every
    model makes no difference. The models were chosen by the search split, so their gains there are
    taken as they are, luck included; their true gains are estimated on the holdout split, which
    was not used to choose. The intervals are those of a paired bootstrap of the holdout examples,
    and are valid however the models were chosen.

    Args:
        search: outcomes on the search split, the base's first.
        holdout: outcomes of the same models on the holdout split, in the same order.
        seed: of the resamples.

    Returns:
        An estimate for each model except the base, and for their mean.
    """
    shown = np.array([value(outcome) for outcome in search])
    held = np.array([value(outcome) for outcome in holdout])
    resamples = np.array([_resampled(outcome, seed) for outcome in holdout])
    gains = shown[1:] - shown[0]
    found, drawn = gains - (held[1:] - held[0]), gains[:, None] - (resamples[1:] - resamples[0])
    each = [Estimate(float(v), *_interval(r)) for v, r in zip(found, drawn, strict=True)]
    return each, Estimate(float(found.mean()), *_interval(drawn.mean(axis=0)))


def better_and_worse(outcome: Outcome, base: Outcome) -> tuple[int, int]:
    """The number of examples answered better than the base does, and the number answered worse."""
    each = STATISTICS[outcome.statistic].each
    ours, theirs = each(outcome.values), each(base.values)
    return int((ours > theirs).sum()), int((ours < theirs).sum())


def _interval(resamples: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resamples, (tail, 1 - tail))
    return float(low), float(high)


def _resampled(outcome: Outcome, seed: int) -> Floats:
    metric = STATISTICS[outcome.statistic].resampled(outcome.values)
    return np.concatenate([metric(block) for block in _blocks(len(outcome), RESAMPLES, seed)])


def _blocks(examples: int, resamples: int, seed: int) -> Iterator[Draws]:
    draws = _draws(examples, resamples, seed)
    for start in range(0, resamples, BLOCK):
        yield draws[start : start + BLOCK].astype(np.float32)


@functools.lru_cache(maxsize=2)
def _draws(examples: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    # Cached, since every trial of a study resamples the same split.
    random = np.random.default_rng(seed)
    draws = np.empty((resamples, examples), np.uint8)
    for row in draws:
        row[:] = np.bincount(random.integers(examples, size=examples), minlength=examples)
    return draws
