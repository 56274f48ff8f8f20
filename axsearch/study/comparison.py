"""How far the accuracies of a front can be trusted: which differ, and how much was luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from axsearch.space.recipe import Recipe
from axsearch.statistics import pareto
from axsearch.statistics.inference import (
    better_and_worse,
    holm,
    optimism,
    paired_differences,
    paired_p_values,
)
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Estimate, Outcome
from axsearch.study.study import Study

LEVEL = 0.05
"""Two models are told apart where equals would differ as much more rarely than this."""

Split = Literal["search", "holdout"]


@dataclass(frozen=True)
class AgainstBase:
    """One model against the base on one split, example by example, as if there were no others.

    Attributes:
        split: whose examples were compared.
        examples: how many.
        better: how many it answers better than the base.
        worse: how many it answers worse.
        drop: by how much its metric is below the base's, with its interval.
        differs: whether the test or the interval tells it apart from the base. It is not corrected
            for other models, or the more of them there are the more differences would be hidden.
    """

    split: Split
    examples: int
    better: int
    worse: int
    drop: Estimate
    differs: bool


@dataclass(frozen=True)
class Ties:
    """Which members of the front cannot be told apart by their accuracy, and which from the base.

    Attributes:
        split: whose examples were compared: ``holdout`` where it was opened for all of them.
        examples: how many.
        exact: whether McNemar's exact test was made; if not, one on a paired bootstrap.
        comparisons: how many pairs of members were compared, for Holm's correction.
        tied: for each member but the base, those that it is not told apart from.
        groups: groups of members that are all tied with each other, the most accurate first; one
            may be in several, and any two that are tied share one.
        against_base: each of them against the base, on the holdout split where it was opened for
            both, otherwise on the search split.
    """

    split: Split
    examples: int
    exact: bool
    comparisons: int
    tied: Mapping[int, tuple[int, ...]]
    groups: tuple[tuple[int, ...], ...]
    against_base: Mapping[int, AgainstBase]

    @property
    def letters(self) -> dict[int, str]:
        """The groups of each trial, as letters; those that share none differ."""
        return {**dict.fromkeys(self.tied, ""), **pareto.tie_letters(self.groups)}

    @property
    def as_base(self) -> list[int]:
        """The members for which no difference to the base is shown."""
        return [trial for trial, one in self.against_base.items() if not one.differs]

    @property
    def words(self) -> str:
        """Sentences that say what the letters mean, and what is known against the base."""
        test = "McNemar's exact test" if self.exact else "a test on the paired bootstrap"
        chose = ", by which they were chosen, too," if self.split == "search" else ""
        on = f"{test} on the {self.examples} examples of the {self.split} split{chose}"
        corrected = f"at {LEVEL:.0%}, corrected for {self.comparisons} comparisons (Holm)"
        among = ""
        if self.groups:
            among = (
                f"Between models that share a letter {on} shows no difference {corrected}; that "
                "does not mean that there is none. "
            )
        elif self.comparisons:
            among = f"No models share a letter: {on} tells all of them apart {corrected}. "
        splits = {one.split for one in self.against_base.values()}
        where = f"the {self.split} split"
        if len(splits) > 1:
            where = "the holdout split where it was opened, otherwise on the search split"
        count, of = len(self.against_base) - len(self.as_base), len(self.against_base)
        return (
            f"{among}{count} of {of} models differ from the base (*), each tested by itself on "
            f"{where} ({test}, or the paired interval); of the others no difference is shown."
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
    """Compare the members of the front pairwise, and each with the base, example by example.

    Where the holdout split was opened for all of them it is used, since no model was picked by it.
    None where outcomes are missing, as in studies of older versions, or there is one model only.
    """
    members = study.front() if front is None else front
    models = _models(study, members)
    for split in ("holdout", "search"):
        outcomes = _outcomes(study, models, split)
        if outcomes is not None and len(models) > 1:
            against = against_base(study, members, "search")
            against |= against_base(study, members, "holdout")
            return _ties(split, list(models)[1:], outcomes[1:], against)
    return None


def against_base(
    study: Study, members: Sequence[Measurement], split: Split
) -> dict[int, AgainstBase]:
    """Each of these models against the base, by trial; those without stored answers are left out.

    The base itself is left out, too.
    """
    models = _models(study, members)
    known = study.outcomes(list(models.values()), split)
    (_, exact), *others = models.items()
    found = {t: known[recipe.hash].outcome for t, recipe in others if recipe.hash in known}
    if exact.hash not in known or not found:
        return {}
    base = known[exact.hash].outcome
    models_compared = compared(split, list(found.values()), base, study.spec.seed)
    return dict(zip(found, models_compared, strict=True))


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


def compared(
    split: Split, outcomes: Sequence[Outcome], base: Outcome, seed: int
) -> list[AgainstBase]:
    """Models against the base by their outcomes on a split; ``seed`` is the bootstrap's."""
    found = []
    rare = paired_p_values([base, *outcomes])[0, 1:] < LEVEL
    changes = paired_differences(outcomes, base, seed)
    for outcome, change, unlikely in zip(outcomes, changes, rare, strict=True):
        # Either is reason enough not to call them equal: with few examples the exact test needs
        # more of a difference than the interval does.
        differs = bool(unlikely) or not change.low <= 0 <= change.high
        drop = Estimate(-change.value, -change.high, -change.low)
        counts = better_and_worse(outcome, base)
        found.append(AgainstBase(split, len(base), *counts, drop, differs))
    return found


def _ties(
    split: Split,
    trials: list[int],
    outcomes: list[Outcome],
    against: Mapping[int, AgainstBase],
) -> Ties:
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
        against_base=against,
    )
