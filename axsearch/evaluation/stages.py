"""Staged evaluation: stop early where a recipe confidently adds next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from scipy import optimize

from axsearch.errors import AxsearchError
from axsearch.statistics import pareto
from axsearch.statistics.inference import paired_error
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Estimate, Outcome
from axsearch.statistics.pareto import Floats
from axsearch.tasks.split import Split

SHARES = (1 / 8, 1 / 2, 1.0)
FEWEST = 32
"""The fewest examples in the first stage: with fewer, the error of a difference means little."""

STANDARD_ERRORS = 1.0
"""How far below the threshold a recipe must be to be stopped: 84 %, one-sided, at each stage.

A recipe that reaches the threshold only just is stopped by either stage in about a fifth of all
cases.
"""

LEAST_GAIN = 0.002
"""The gain in the front's hypervolume, as a share of it, that is worth evaluating all examples."""

OTHERS = 8
"""Of so many tokenizers beside the base's the parts are kept."""

LEAST_CONTESTED = 0.05
"""For an example whose answer seems certain, on the scale of :func:`contested`, up to 1/2."""


class DominatedError(AxsearchError):
    """A recipe was stopped: it confidently adds next to nothing to the front.

    Attributes:
        seen: how many examples it was evaluated on.
        estimate: its metric on the whole split, estimated from these examples, with its interval.
        rival: the model that it does not beat, as :class:`Threshold` names it.
        outcome: of the examples that were seen.
    """

    def __init__(self, seen: int, estimate: Estimate, rival: str, outcome: Outcome) -> None:
        super().__init__(f"dominated by {rival} after {seen} examples")
        self.seen = seen
        self.estimate = estimate
        self.rival = rival
        self.outcome = outcome


HEADROOM = 0.02
"""How far above the best accuracy so far a recipe is assumed to reach, at most."""


@dataclass(frozen=True)
class Threshold:
    """What a recipe must reach to be worth all examples.

    Attributes:
        rival: the most accurate model at no higher cost, in words.
        value: the metric that adds :data:`LEAST_GAIN` to the front.
        known: outcomes of completely evaluated recipes on the whole split, to compare with; at
            least one.
    """

    rival: str
    value: float
    known: Sequence[Outcome]


class Stages:
    """A split in nested subsets of 1/8, 1/2 and all examples, the same for every recipe.

    Examples on which recipes differ come sooner: they are drawn without replacement, with chances
    in proportion to how contested they are. An example that all of them answer the same shows no
    difference.

    Args:
        split: the whole.
        contested: of each example, above 0, see :func:`contested`; equal for all if None.
    """

    def __init__(self, split: Split, contested: Floats | None = None) -> None:
        count = int(split.owners[-1]) + 1
        weights = np.ones(count) if contested is None else contested
        # Sequential Poisson sampling (Ohlsson 1998): the first n are drawn as if n had been asked.
        order = np.argsort(np.random.default_rng(0).random(count) / weights, kind="stable")
        ends = sorted({max(min(FEWEST, count), round(share * count)) for share in SHARES})
        self.examples = [np.sort(part) for part in np.split(order, ends[:-1])]
        self._split = split
        self._others: LRUCache[str, list[Split]] = LRUCache(OTHERS)
        self.parts = [split.take(part) for part in self.examples]
        self.rows = [np.flatnonzero(np.isin(split.owners, part)) for part in self.examples]
        self._chances = [_chances(weights, end) for end in ends]

    def of(self, split: Split) -> Sequence[Split]:
        """The parts of the same examples as another tokenizer reads them."""
        if split is self._split:
            return self.parts
        if split.fingerprint not in self._others:  # so that each part is hashed once
            self._others[split.fingerprint] = [split.take(part) for part in self.examples]
        return self._others[split.fingerprint]

    def name(self, seen: int) -> str:
        """The name of a stage in the store: examples seen, of how many."""
        return f"{seen}/{len(self._chances[-1])}"

    def seen(self, stage: int) -> NDArray[np.int64]:
        """The examples of all stages up to this one, in the order in which they were seen."""
        return np.concatenate(self.examples[: stage + 1])

    def estimate(self, ours: Outcome, stage: int, known: Sequence[Outcome]) -> tuple[float, float]:
        """A recipe's metric on the whole split by the examples of the stages so far, and its error.

        The estimate is of the difference from another recipe that is known on all examples, namely
        the one whose difference has the smallest error: small differences are known soon. The
        examples not seen yet are all that is uncertain, since the objective is the metric on this
        very split. A mean is estimated by Horvitz and Thompson's estimator, its variance as for
        Poisson sampling (Särndal, Swensson and Wretman 1992, section 3.5), to which one example is
        added that differs by a whole point: a few examples that all agree are no proof. Other
        metrics need examples that are equally likely, and are compared with the recipe whose
        answers are most similar.

        Args:
            ours: of the examples of :meth:`seen`, in their order.
            stage: the last one.
            known: of the whole split, at least one.
        """
        seen = self.seen(stage)
        if ours.statistic != "mean":  # a bootstrap with each would take longer than the model
            known = [min(known, key=lambda other: _apart(other.values[seen], ours.values))]
        found = [self._from(other, ours, seen, self._chances[stage]) for other in known]
        return min(found, key=lambda value_and_error: value_and_error[1])

    def _from(
        self, other: Outcome, ours: Outcome, seen: NDArray[np.int64], chances: Floats
    ) -> tuple[float, float]:
        whole, part = value(other), Outcome(other.statistic, other.values[seen])
        if ours.statistic != "mean":
            difference, error = paired_error(ours, part)
            return whole + difference, error * float(np.sqrt(1 - len(seen) / len(other)))
        own = chances[seen]
        difference = np.asarray(ours.values, float) - np.asarray(part.values, float)
        weighted = difference / own
        one_more = np.mean(1 - own) * np.mean(1 / own) ** 2
        variance = np.sum((1 - own) * np.square(weighted)) + one_more
        return whole + weighted.sum() / len(other), float(np.sqrt(variance)) / len(other)


def _apart(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).sum())


def contested(losses: NDArray[np.float32], owners: NDArray[np.int64]) -> Floats:
    """How likely recipes are to differ on each example, by the base's losses, (examples,).

    It is the standard deviation of an answer that is right with probability ``exp(-loss)``.

    Args:
        losses: of the base, (features,).
        owners: which example each feature is of, (features,).
    """
    right = np.exp(-np.bincount(owners, losses) / np.bincount(owners))
    spread: Floats = np.sqrt(right * (1 - right))
    return np.maximum(spread, LEAST_CONTESTED)


def _chances(weights: Floats, count: int) -> Floats:
    """The probability that each example is among ``count`` drawn, (examples,)."""
    if count >= len(weights):
        return np.ones(len(weights))

    def missing(logarithm: float) -> float:
        return float(np.minimum(1.0, np.exp(logarithm) * weights).sum() - count)

    ends = np.log(count / weights.sum()) - 1, 1 - np.log(weights.min())
    chances: Floats = np.exp(optimize.brentq(missing, *ends)) * weights
    return np.minimum(1.0, chances)


def worth(
    least: float, costs: Floats, front_accuracy: Floats, front_costs: Floats, reference: float
) -> float:
    """The accuracy with which a recipe of these costs adds :data:`LEAST_GAIN`.

    Args:
        least: the accuracy that it must exceed to add anything: that of the best at no higher cost.
        costs: the recipe's, (costs,), those that the study minimises, as ratios to the base.
        front_accuracy: of the front's members, (members,).
        front_costs: of the front's members, (members, costs).
        reference: the accuracy below which nothing counts.
    """
    tried = np.linspace(least, front_accuracy.max(initial=least) + HEADROOM, 64)
    gains = pareto.expected_improvement(
        tried,
        np.full(len(tried), 1e-9),  # the improvement itself: nothing is uncertain
        np.tile(costs, (len(tried), 1)),
        front_accuracy,
        front_costs,
        reference,
    )
    enough = LEAST_GAIN * pareto.hypervolume(front_costs, front_accuracy, reference)
    return float(np.interp(enough, gains, tried))  # gains rise, in straight lines between members


def joined(outcomes: list[Outcome]) -> Outcome:
    """The outcome of several parts of a split together."""
    values: NDArray[Any] = np.concatenate([outcome.values for outcome in outcomes])
    return Outcome(outcomes[0].statistic, values)
