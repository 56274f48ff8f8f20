"""The statistics behind all metrics: the value, and the values of resamples of the examples.

A metric's value comes from the library that defines it, except for F1 of entities, which is counted
here as seqeval defines it. Its interval needs the metric of a thousand resamples; they follow, all
at once, from how often each example was drawn.

scikit-learn and scipy's statistics are imported where they are called, since they take a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axsearch.statistics.outcome import Outcome

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


def _halves(values: Values) -> tuple[Values, Values]:
    """Whether each example has each label, and was answered to have it: (examples, labels)."""
    there, said = np.hsplit(values > 0, 2)
    return there, said


def _multi_label_macro_f1(values: Values) -> Callable[[Draws], Floats]:
    there, said = _halves(values)
    rights, boths = _summed(there & said), _summed(there.astype(np.int8) + said)
    return lambda draws: _ratio(2 * rights(draws), boths(draws)).mean(axis=1)


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


def _multi_label_macro_f1_value(values: Values) -> float:
    # As scikit-learn has it, which takes one label alone for two classes.
    there, said = _halves(values)
    both = there.sum(axis=0) + said.sum(axis=0)
    return float(_ratio(2.0 * (there & said).sum(axis=0), both).mean())


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


def _own_label_f1(values: Values) -> Values:
    there, said = _halves(values)
    return _own_f1(np.stack([(there & said).sum(1), said.sum(1), there.sum(1)], axis=1))


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
    # for each label two columns: whether it is there, and whether it was answered
    "multi_label_macro_f1": Statistic(
        _multi_label_macro_f1_value, _multi_label_macro_f1, _own_label_f1
    ),
    # three columns: entities or labels predicted correctly, predicted, and in the data
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
