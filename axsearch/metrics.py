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
Weights = NDArray[np.int64] | None

CONFIDENCE = 0.95
RESAMPLES = 1000


def _accuracy(labels: Labels, predicted: Labels, classes: int, weights: Weights) -> float:
    return float(sk.accuracy_score(labels, predicted, sample_weight=weights))


def _f1(labels: Labels, predicted: Labels, classes: int, weights: Weights) -> float:
    # GLUE's F1 is that of the positive class; with more classes there is none, so the mean.
    average = "binary" if classes <= 2 else "macro"
    return float(
        sk.f1_score(labels, predicted, average=average, zero_division=0.0, sample_weight=weights)
    )


def _matthews(labels: Labels, predicted: Labels, classes: int, weights: Weights) -> float:
    with warnings.catch_warnings():  # a resample of one class alone is 0, which is meant
        warnings.simplefilter("ignore", UserWarning)
        return float(sk.matthews_corrcoef(labels, predicted, sample_weight=weights))


METRICS: dict[str, Callable[[Labels, Labels, int, Weights], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
}
"""Every metric by name; more is better.

Labels and predictions, (examples,), the number of classes, and how often each example counts,
(examples,) or None for once, to a number.
"""

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
    value = METRICS[metric](labels, predicted, classes, None)
    if metric == "accuracy":
        right = int((labels == predicted).sum())
        low, high = stats.binomtest(right, len(labels)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(value, float(low), float(high))
    # Resampling examples is drawing how often each pair of label and prediction occurs, so
    # scikit-learn sees a few weighted pairs a draw instead of every example.
    pairs, counts = np.unique(np.stack((labels, predicted)), axis=1, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        len(labels), counts / len(labels), size=RESAMPLES
    )
    values = [METRICS[metric](pairs[0], pairs[1], classes, weights) for weights in draws]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


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
