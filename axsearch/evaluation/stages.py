"""Staged evaluation: stop early with a recipe that is confidently worth next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axsearch import pareto
from axsearch.errors import AxsearchError
from axsearch.metrics import paired_error
from axsearch.outcome import Estimate, Outcome
from axsearch.pareto import Floats
from axsearch.split import Split

SHARES = (1 / 8, 1 / 2, 1.0)
FEWEST = 32
"""Examples in the first stage, at least: below that an error of the difference says little."""

STANDARD_ERRORS = 1.64
"""How far below what it needs a recipe must be to be stopped: 95 %, one-sided."""

LEAST_GAIN = 0.002
"""What a recipe must add to the front's hypervolume, as a share of it, to be worth the examples."""


class DominatedError(AxsearchError):
    """A recipe was stopped: one of the front costs no more and confidently leaves it no room.

    Attributes:
        seen: how many examples it was evaluated on.
        estimate: its metric on them, with its interval.
        rival: what dominates it, as :class:`Rival` names it.
    """

    def __init__(self, seen: int, estimate: Estimate, rival: str) -> None:
        super().__init__(f"dominated by {rival} after {seen} examples")
        self.seen = seen
        self.estimate = estimate
        self.rival = rival


HEADROOM = 0.02
"""How far above the best accuracy so far a recipe is thought to come, at most."""


@dataclass(frozen=True)
class Rival:
    """One of the front that costs no more in any objective.

    Attributes:
        name: what it is called.
        outcome: what it gave on the whole split.
        margin: by how much a recipe must be better to add :data:`LEAST_GAIN`.
    """

    name: str
    outcome: Outcome
    margin: float = 0.0


class Stages:
    """A split in nested subsets of 1/8, 1/2 and all examples, the same for every recipe."""

    def __init__(self, split: Split) -> None:
        self.split = split
        count = int(split.owners[-1]) + 1
        order = np.random.default_rng(0).permutation(count)
        ends = sorted({max(min(FEWEST, count), round(share * count)) for share in SHARES})
        self.examples = [np.sort(part) for part in np.split(order, ends[:-1])]
        self.parts = [split.take(part) for part in self.examples]
        self.rows = [np.flatnonzero(np.isin(split.owners, part)) for part in self.examples]

    def seen(self, stage: int) -> NDArray[np.int64]:
        """The examples of all stages up to this one, in the order in which they were seen."""
        return np.concatenate(self.examples[: stage + 1])


def dominated(ours: Outcome, rival: Outcome, seen: NDArray[np.int64], margin: float = 0.0) -> bool:
    """Whether a recipe is confidently less than ``margin`` above its rival, by the examples seen.

    Compared are the differences on the same examples, pair by pair. The examples not seen yet are
    all that is uncertain, since the objective is the metric on this very split: the error is that
    of a sample from it without replacement.
    """
    theirs = Outcome(rival.statistic, rival.values[seen])
    difference, error = paired_error(ours, theirs)
    left = np.sqrt(1 - len(seen) / len(rival))
    return bool(difference < margin - STANDARD_ERRORS * error * left)


def margin(
    rival: float, costs: Floats, front_accuracy: Floats, front_costs: Floats, reference: float
) -> float:
    """How far above its rival a recipe of these costs must come to add :data:`LEAST_GAIN`.

    Args:
        rival: the accuracy of the rival.
        costs: of the recipe, (costs,), those that the study minimises, as ratios to the base.
        front_accuracy: of the front's members, (members,).
        front_costs: of the front's members, (members, costs).
        reference: the accuracy below which nothing counts.
    """
    tried = np.linspace(rival, front_accuracy.max() + HEADROOM, 64)
    gains = pareto.expected_improvement(
        tried,
        np.full(len(tried), 1e-9),  # the improvement itself: nothing is uncertain
        np.tile(costs, (len(tried), 1)),
        front_accuracy,
        front_costs,
        reference,
    )
    least = LEAST_GAIN * pareto.hypervolume(front_costs, front_accuracy, reference)
    worth = np.flatnonzero(gains > least)
    return float(tried[worth[0] if len(worth) else -1] - rival)


def joined(outcomes: list[Outcome]) -> Outcome:
    """The outcome of several parts of a split together."""
    values: NDArray[Any] = np.concatenate([outcome.values for outcome in outcomes])
    return Outcome(outcomes[0].statistic, values)
