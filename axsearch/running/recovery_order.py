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
    if candidates is not None:
        if not (found := candidates_of(study, candidates)):
            raise UsageError(
                f"Study {study.name!r} has no model within its limits that was made smaller at a "
                "loss; `trial` names any other."
            )
        return found
    # Of models as they were cut: a recovered one may have pushed others off the front, and a call
    # that goes on where another was stopped must train the same.
    found = [m for m in study.front_as_cut() if not is_plain(Recipe.from_dict(m.recipe))]
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
        own = sorted((m for m in left if m.trial in front), key=_pace)
        room = min(count - len(found), len(own))
        found += [own[(2 * place + 1) * len(own) // (2 * room)] for place in range(room)]
        left = [m for m in left if m.trial not in front]
    return sorted(found, key=_pace)


def each(
    train: Train, models: Sequence[Measurement], settings: RecoverySettings, *, alone: bool = False
) -> Iterator[Recovered]:
    """Train all of these models, last those that another process has begun with.

    One whose numbers are not finite is left out; NotFiniteError is raised if it is asked for
    ``alone``.
    """
    left = models
    for wait in (False, True):
        later = []
        for one in left:
            try:
                yield from train(one, settings, wait=wait)
            except Timeout:
                later.append(one)
            except NotFiniteError as error:
                if alone:
                    raise
                _left_out(one, error)
        left = later


def _left_out(one: Measurement, error: NotFiniteError) -> None:
    console.print(f"Trial {one.trial} is not recovered: {error}", style="yellow")


def halved(
    study: Study,
    train: Train,
    models: Sequence[Measurement],
    settings: RecoverySettings,
    most: float,
) -> Iterator[Recovered]:
    """Train models, halving those that are left: after one that loses too much, slower ones.

    So it goes on after one whose numbers are not finite.
    """
    low, high = 0, len(models) - 1
    while low <= high:
        middle = (low + high) // 2
        try:
            found = train(models[middle], settings)
        except NotFiniteError as error:
            _left_out(models[middle], error)
            low = middle + 1
            continue
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
    Where no learning rate is given, all take the one that is best for the model in the middle. A
    model whose numbers are not finite is left out.
    """
    short = replace(settings, epochs=1, soup=1) if settings.epochs > 1 else settings
    done: list[Recovered] = []
    left = list(models)
    while settings.learning_rate is None and left and not done:
        first = left.pop(len(left) // 2)
        done += each(train, [first], short)
        yield from done
    if done:
        short, settings = (replace(one, learning_rate=done[0].rate) for one in (short, settings))
    for one in each(train, left, short):
        done.append(one)
        yield one
    if settings.epochs == 1:
        return
    spec = study.spec.model_copy(update={"max_drop": None})
    # As they were when they were tried, or a call that goes on where another was stopped might
    # choose others: models of the front are timed, and evaluated where they are served, later.
    done.sort(key=lambda one: one.trial)
    trained = [one.before.model_copy(update={"accuracy": _tried(one.after)}) for one in done]
    best = {m.trial for m in front_of(spec, study.baseline, [study.baseline, *trained])}
    last = [one.before for one in done if one.before.trial in best]
    console.print(
        f"After one pass {len(last)} of {len(done)} models are beaten by no other; these are "
        f"trained for {settings.epochs} passes."
    )
    yield from each(train, sorted(last, key=_pace), settings)


def _tried(one: Measurement) -> float:
    return one.accuracy if one.accuracy_tried is None else one.accuracy_tried


def _pace(one: Measurement) -> tuple[float, ...]:
    """By what candidates are in order: what does not change once a model is timed."""
    return one.objective_latency or 0.0, one.size_bytes, one.trial or 0
