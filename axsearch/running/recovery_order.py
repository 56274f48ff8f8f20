"""Which models of a study are recovered, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from filelock import Timeout

from axsearch.errors import UsageError
from axsearch.progress import console
from axsearch.running.recovered_trials import Recovered
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.study.choosing import ORDERS
from axsearch.study.fronts import front_of
from axsearch.study.study import Study
from axsearch.training.recovery import NotFiniteError
from axsearch.training.request import RecoverySettings

Train = Callable[..., list[Recovered]]
"""Trains one model with given settings, as ``_Recovering.recover`` of ``recovering.py`` does."""


def is_plain(recipe: Recipe) -> bool:
    """Whether a model answers as the base does."""
    return not recipe.lossy.sites


def whom(
    study: Study, trial: int | None, front: bool, candidates: int | None, max_drop: float | None
) -> list[Measurement]:
    """The models to train, the fastest first; raises UsageError where there is none."""
    given = (trial is not None, front, candidates is not None, max_drop is not None)
    if sum(given) != 1:
        raise UsageError(
            "Say what to recover: one of `trial`, `front`, `candidates` and `max_drop`."
        )
    _ = study.baseline  # or there is nothing to compare with
    if trial is not None:
        one = study.trial(trial)
        if one.recovered_from is not None and is_plain(Recipe.from_dict(one.recipe)):
            raise UsageError(
                f"The model of trial {trial} is the control, the base trained further; name the "
                f"trial that it was made from, {one.recovered_from}."
            )
        return [one]
    if max_drop is not None and not 0 <= max_drop < 1:
        raise UsageError(f"`max_drop` must be from 0 to below 1, such as 0.01, not {max_drop}.")
    if candidates is not None and candidates < 1:
        raise UsageError(f"`candidates` must be at least 1, not {candidates}.")
    # Of models as they were cut: a recovered one may have pushed others off the front, and a call
    # that goes on where another was stopped must train the same.
    found = (
        [m for m in study.front_as_cut() if not is_plain(Recipe.from_dict(m.recipe))]
        if candidates is None
        else candidates_of(study, candidates)
    )
    if not found:
        raise UsageError(
            f"The front of study {study.name!r} has no model that was made smaller at a loss; "
            "`trial` names any other."
        )
    return sorted(found, key=ORDERS["latency"])


def candidates_of(study: Study, count: int) -> list[Measurement]:
    """So many models as they were cut, the fastest first: the front's, then those that would be on
    it without these, and so on; of the last of these fronts some that lie evenly on it.

    Their order by accuracy changes when they are trained, so a model that another beats may beat it
    then. The study's limit of the drop does not count: training may bring a model within it.
    """
    spec, base = study.spec.model_copy(update={"max_drop": None}), study.baseline
    left = [
        m
        for m in study.measurements
        if m.recovered_from is None and not is_plain(Recipe.from_dict(m.recipe))
    ]
    found: list[Measurement] = []
    while left and len(found) < count:
        front = {m.trial for m in front_of(spec, base, left)}
        if not front:  # the others break limits
            break
        own = sorted((m for m in left if m.trial in front), key=ORDERS["latency"])
        room = min(count - len(found), len(own))
        found += [own[(2 * place + 1) * len(own) // (2 * room)] for place in range(room)]
        left = [m for m in left if m.trial not in front]
    return sorted(found, key=ORDERS["latency"])


def each(
    train: Train, models: Sequence[Measurement], settings: RecoverySettings
) -> Iterator[Recovered]:
    """Train all of these models, last those that another process has begun with."""
    left = models
    for wait in (False, True):
        later = []
        for one in left:
            try:
                yield from train(one, settings, wait=wait)
            except Timeout:
                later.append(one)
            except NotFiniteError as error:
                if len(models) == 1:
                    raise
                console.print(f"Trial {one.trial} is not recovered: {error}", style="yellow")
        left = later


def halved(
    study: Study,
    train: Train,
    models: Sequence[Measurement],
    settings: RecoverySettings,
    most: float,
) -> Iterator[Recovered]:
    """Train models, halving those that are left: after one that loses too much, slower ones."""
    low, high = 0, len(models) - 1
    while low <= high:
        middle = (low + high) // 2
        found = train(models[middle], settings)
        yield from found
        last = study.trial(found[-1].trial)
        expected = study.expectation(last)
        drop = study.baseline.accuracy - last.accuracy if expected is None else expected.drop
        low, high = (low, middle - 1) if drop <= most else (middle + 1, high)


def raced(
    study: Study, train: Train, models: Sequence[Measurement], settings: RecoverySettings
) -> Iterator[Recovered]:
    """Train all of these models for one pass, and those that no other of them beats for all passes.

    That is successive halving (Jamieson & Talwalkar, arXiv 1502.07943) for several objectives, with
    two rounds: what is left is not a half but a front, as in Schmucker et al. (arXiv 2106.12639).
    Where no learning rate is given, all take the one that is best for the model in the middle.
    """
    short = replace(settings, epochs=1, soup=1) if settings.epochs > 1 else settings
    middle = len(models) // 2
    done = train(models[middle], short)
    yield from done
    if settings.learning_rate is None:
        short, settings = (replace(one, learning_rate=done[0].rate) for one in (short, settings))
    for one in each(train, [*models[:middle], *models[middle + 1 :]], short):
        done.append(one)
        yield one
    if settings.epochs == 1:
        return
    spec = study.spec.model_copy(update={"max_drop": None})
    trained = [study.trial(one.trial) for one in done]
    best = {m.trial for m in front_of(spec, study.baseline, [study.baseline, *trained])}
    left = [one.before for one in done if one.trial in best]
    console.print(
        f"After one pass {len(left)} of {len(done)} models are beaten by no other; these are "
        f"trained for {settings.epochs} passes."
    )
    yield from each(train, sorted(left, key=ORDERS["latency"]), settings)
