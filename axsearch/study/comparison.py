"""How far the accuracies of a front can be trusted: which are tied, and how much was luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from axsearch.space.recipe import Recipe
from axsearch.statistics import pareto
from axsearch.statistics.inference import holm, optimism, paired_p_values
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Estimate, Outcome
from axsearch.study.study import Study

LEVEL = 0.05
"""Two models are tied unless a difference like theirs would be rarer than this among equals."""


@dataclass(frozen=True)
class Ties:
    """Which of the base and the front cannot be told apart by their accuracy.

    Attributes:
        split: whose examples were compared: ``holdout`` where it was opened for all of them.
        examples: how many.
        exact: whether McNemar's exact test was made; if not, one on a paired bootstrap.
        comparisons: how many pairs were compared, for Holm's correction.
        tied: for each trial, those that it is tied with.
        groups: groups of trials that are all tied with each other, the most accurate first; a trial
            may be in several, and any two that are tied share one.
    """

    split: Literal["search", "holdout"]
    examples: int
    exact: bool
    comparisons: int
    tied: Mapping[int, tuple[int, ...]]
    groups: tuple[tuple[int, ...], ...]

    @property
    def letters(self) -> dict[int, str]:
        """The groups of each trial, as letters; those that share none differ."""
        return {**dict.fromkeys(self.tied, ""), **pareto.tie_letters(self.groups)}

    @property
    def words(self) -> str:
        """A sentence that says what the letters mean and how models were compared."""
        test = "McNemar's exact test" if self.exact else "a test on the paired bootstrap"
        finds = "finds no difference" if self.groups else "finds that all of them differ"
        chose = ", by which they were chosen, too," if self.split == "search" else ""
        return (
            f"{'Models that share a letter are tied' if self.groups else 'No models are tied'}: "
            f"{test} on the {self.examples} examples of the {self.split} split{chose} {finds} at "
            f"{LEVEL:.0%}, corrected for {self.comparisons} comparisons (Holm)."
        )


@dataclass(frozen=True)
class SelectionBias:
    """By how much the search split overstates the accuracy of the front, compared with the base.

    A model picked for its search accuracy usually scores lower on new data: part of that accuracy
    was luck. The bias is how much of the difference to the base is missing on the holdout split,
    which no model was picked by.

    Attributes:
        members: by trial.
        mean: over the members but the base.
    """

    members: Mapping[int, Estimate]
    mean: Estimate

    @property
    def words(self) -> str:
        """The bias in a sentence or two."""
        value, low, high = self.mean
        chance = "; it may be chance" if low <= 0 <= high else ""
        return (
            "Selection bias: a model picked for its search accuracy usually scores lower on new "
            "data. Compared with the base, the search split overstates these models by "
            f"{value:+.4f} ({low:+.4f} to {high:+.4f}, 95 %{chance}; mean of {len(self.members)} "
            "models)."
        )


def ties(study: Study, front: Sequence[Measurement] | None = None) -> Ties | None:
    """Compare the base and the members of the front pairwise, example by example.

    Where the holdout split was opened for all of them it is used, since no model was picked by it.
    None where outcomes are missing, as in studies of older versions, or there is one model only.
    """
    models = _models(study, study.front() if front is None else front)
    for split in ("holdout", "search"):
        outcomes = _outcomes(study, models, split)
        if outcomes is not None and len(models) > 1:
            return _ties(split, list(models), outcomes)
    return None


def selection_bias(
    study: Study, front: Sequence[Measurement] | None = None
) -> SelectionBias | None:
    """The bias of a front; None until the holdout split was opened for the base and all members."""
    models = _models(study, study.front() if front is None else front)
    found = [_outcomes(study, models, split) for split in ("search", "holdout")]
    search, holdout = found
    if search is None or holdout is None or len(models) < 2:
        return None
    members, mean = optimism(search, holdout, study.spec.seed)
    return SelectionBias(dict(zip(list(models)[1:], members, strict=True)), mean)


def _models(study: Study, front: Sequence[Measurement]) -> dict[int, Recipe]:
    """The base, then the other members of the front, the most accurate first."""
    base = study.baseline
    others = sorted((m for m in front if m.recipe != base.recipe), key=lambda m: -m.accuracy)
    return {m.trial: Recipe.from_dict(m.recipe) for m in (base, *others) if m.trial is not None}


def _outcomes(study: Study, models: Mapping[int, Recipe], split: str) -> list[Outcome] | None:
    known = study.outcomes(list(models.values()), split)
    if any(recipe.hash not in known for recipe in models.values()):
        return None
    return [known[recipe.hash].outcome for recipe in models.values()]


def _ties(split: Literal["search", "holdout"], trials: list[int], outcomes: list[Outcome]) -> Ties:
    # The most accurate first, on the split that is compared.
    order = sorted(range(len(trials)), key=lambda i: -value(outcomes[i]))
    trials, outcomes = [trials[i] for i in order], [outcomes[i] for i in order]
    p_values = paired_p_values(outcomes)
    above = np.triu_indices(len(trials), 1)
    tied = np.zeros_like(p_values, dtype=bool)
    tied[above] = holm(p_values[above]) >= LEVEL
    tied |= tied.T
    return Ties(
        split=split,
        examples=len(outcomes[0]),
        exact=all(outcome.values.dtype == bool for outcome in outcomes),
        comparisons=len(above[0]),
        tied={
            trial: tuple(trials[other] for other in np.flatnonzero(row))
            for trial, row in zip(trials, tied, strict=True)
        },
        groups=tuple(tuple(trials[i] for i in group) for group in pareto.tie_groups(tied)),
    )
