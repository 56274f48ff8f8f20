"""Accuracy metrics of a classifier, with 95 % confidence intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

Labels = NDArray[np.int64]

CONFIDENCE = 0.95
RESAMPLES = 1000


def _accuracy(labels: Labels, predicted: Labels, classes: int) -> float:
    return float(sk.accuracy_score(labels, predicted))


def _f1(labels: Labels, predicted: Labels, classes: int) -> float:
    # GLUE's F1 is that of the positive class; with more classes there is none, so the mean.
    average = "binary" if classes <= 2 else "macro"
    return float(sk.f1_score(labels, predicted, average=average, zero_division=0.0))


def _matthews(labels: Labels, predicted: Labels, classes: int) -> float:
    with warnings.catch_warnings():  # a resample of one class alone is 0, which is meant
        warnings.simplefilter("ignore", UserWarning)
        return float(sk.matthews_corrcoef(labels, predicted))


METRICS: dict[str, Callable[[Labels, Labels, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
}
"""Every metric: labels, predictions, both (examples,), and classes to a number; more is better."""

GLUE_METRICS: dict[str, str] = {
    "glue/cola": "matthews_correlation",
    "glue/mnli": "accuracy",
    "glue/mrpc": "f1",
    "glue/qnli": "accuracy",
    "glue/qqp": "f1",
    "glue/rte": "accuracy",
    "glue/sst2": "accuracy",
    "glue/wnli": "accuracy",
}
"""GLUE's classification tasks and the metric that each is ranked by."""


class Estimate(NamedTuple):
    """A value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def estimate(metric: str, labels: Labels, predicted: Labels, seed: int = 0) -> Estimate:
    """The metric with its interval: Wilson's for accuracy, else a percentile bootstrap.

    ``labels`` and ``predicted`` are class ids, (examples,). ``seed`` fixes the resampling.
    """
    classes = int(max(labels.max(), predicted.max())) + 1
    value = METRICS[metric](labels, predicted, classes)
    if metric == "accuracy":
        right = int((labels == predicted).sum())
        low, high = stats.binomtest(right, len(labels)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(value, float(low), float(high))
    interval = stats.bootstrap(
        (labels, predicted),
        lambda labels, predicted: METRICS[metric](labels, predicted, classes),
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def paired_difference(
    right: NDArray[np.bool_], base_right: NDArray[np.bool_], seed: int = 0
) -> Estimate:
    """Accuracy minus the base's on the same examples, with a paired bootstrap interval.

    Both arguments are (examples,): whether each example was answered rightly.
    """
    difference = right.astype(float) - base_right.astype(float)
    mean = float(difference.mean())
    if difference.min() == difference.max():  # every resample is the same
        return Estimate(mean, mean, mean)
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))
