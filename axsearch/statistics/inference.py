"""How sure a metric is, and whether models differ: bootstrap intervals, tests, and optimism.

All of it rests on a bootstrap over the examples of a split, paired between models: a resample
draws the same examples of each.

scipy is imported where it is called: it takes up to a second, and what a study has stored is
compared without it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from axsearch.statistics.distributions import heads_cdf, normal_cdf
from axsearch.statistics.metrics import STATISTICS, Draws, Floats, value
from axsearch.statistics.outcome import Estimate, Outcome

CONFIDENCE = 0.95
RESAMPLES = 1000
BLOCK = 50
"""Resamples computed at once; their data then stays in the processor's cache."""


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
    return paired_differences([outcome], base, seed)[0]


def paired_differences(outcomes: Sequence[Outcome], base: Outcome, seed: int = 0) -> list[Estimate]:
    """:func:`paired_difference` of each model to the same base."""
    resamples, found = _resampled(base, seed), value(base)
    return [
        Estimate(value(outcome) - found, *_interval(_resampled(outcome, seed) - resamples))
        for outcome in outcomes
    ]


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


def paired_drops(outcomes: Sequence[Outcome], base: Outcome) -> tuple[Floats, Floats]:
    """How much lower than the base's each model's metric is, and the errors of these drops.

    All models answered the same examples, so their drops err together: the errors are a covariance,
    that of a paired bootstrap, with the effect of one more example on its diagonal, as in
    :func:`paired_error`.

    Args:
        outcomes: of one metric on one split, those of the models.
        base: the base's.

    Returns:
        The drops, (models,), positive where a model is worse, and their covariance,
        (models, models).
    """
    resamples = np.array([_resampled(outcome, 0) for outcome in outcomes])
    count = len(base)
    one_more = np.maximum(1 / count, 2 * resamples.std(axis=1) / math.sqrt(count))
    lost = _resampled(base, 0) - resamples
    covariance = np.atleast_2d(np.cov(lost, ddof=0)) + np.diag(one_more**2)
    return value(base) - np.array([value(outcome) for outcome in outcomes]), covariance


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
        return np.where(differ > 0, np.minimum(2 * heads_cdf(lesser, differ), 1), 1)
    resamples = np.array([_resampled(outcome, 0) for outcome in outcomes])
    values, count = np.array([value(outcome) for outcome in outcomes]), len(outcomes[0])
    one_more = np.maximum(1 / count, 2 * resamples.std(axis=1) / math.sqrt(count))
    spread = np.cov(resamples, ddof=0).reshape(len(outcomes), len(outcomes))
    variance = np.maximum(np.diag(spread)[:, None] + np.diag(spread) - 2 * spread, 0)
    error = np.sqrt(variance + np.maximum(one_more[:, None], one_more) ** 2)
    p_values: Floats = np.minimum(2 * normal_cdf(-np.abs(values[:, None] - values) / error), 1)
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
