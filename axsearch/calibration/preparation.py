"""All that is measured once before a search, and kept: from a task to a Problem."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from axsearch.approximations import Level
from axsearch.approximations.site import SiteId, TokenUse
from axsearch.calibration.block_timing import ROUNDS, SECONDS, measure_latency_table
from axsearch.calibration.costs import latency_cost, size_cost, size_table, slower_levels
from axsearch.calibration.damage import Damage, calibration_sample, effort, measure_damage
from axsearch.calibration.importance import (
    PATH,
    Importance,
    fisher_importance,
    importance_along_path,
)
from axsearch.calibration.order import orders_after_refit
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.progress import console, progress_bar
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable
from axsearch.space.problem import Problem
from axsearch.space.recipe import Compensation, Recipe
from axsearch.space.size_table import SizeTable
from axsearch.store.calibration_keys import (
    LATENCY_TABLES,
    NO_SPLIT,
    both_splits,
    damage_kind,
    importance_kind,
    latency_kind,
    size_kind,
    token_kind,
    trivial_kind,
)
from axsearch.store.queries import (
    LatencyKey,
    load_calibration,
    replace_calibration,
    save_calibration,
    save_latency_table,
)
from axsearch.store.studies import save_machine
from axsearch.study.spec import StudySpec
from axsearch.system.machine import machine_facts, machine_name, measuring

SECONDS_VARIABLE = "AXSEARCH_TABLE_SECONDS"

INEXACT = 0.1
"""The error of a latency table on whole models above which the user is told."""

Orders = Mapping[SiteId, Sequence[int]]
"""The importance order of the units of each site."""

Told = Callable[[int, int], None]
"""Called with how much of a measurement is done, and how much there is in all."""


def prepare(
    evaluator: Evaluator,
    space_of: Callable[[Orders, Mapping[str, Collection[Level]]], SearchSpace],
    machine: str,
    tables: int = LATENCY_TABLES,
    *,
    objectives: Sequence[str],
    limits: Mapping[str, float],
    epsilon: float | None = None,
    calibrated: bool = True,
) -> Problem:
    """Measure what is not in the store yet: latency table, importance, damage.

    The latency table is put into the evaluator. Everything is read back from the store, so that a
    resumed study sees the very same numbers.

    Args:
        evaluator: of the task, on this machine.
        space_of: makes the space from importance orders and the levels to leave out.
        machine: whose latency table to take; measured where there is none.
        tables: the way in which the study's latency table is measured, see
            :data:`axsearch.store.calibration_keys.LATENCY_TABLES`.
        objectives: of the study.
        limits: as :class:`Problem` has them.
        epsilon: see :class:`Problem`.
        calibrated: whether importance and damage are measured, and levels left out that are no
            faster than a more exact one.
    """
    in_order: Orders = {id: range(site.count) for id, site in evaluator.base.sites.items()}
    asked = space_of(in_order, {})
    costs = {"size": size_cost(_sizes(evaluator, asked))}
    # No cost shows that a narrowed layer is faster, where latency is not measured.
    narrowing = [d for d in asked.dimensions if d.approximation.narrows]
    dropped: Mapping[str, Collection[Level]] = {d.name: d.levels[1:] for d in narrowing}
    if evaluator.scenario is not None:
        table = latency_table(evaluator, asked, machine, tables)
        evaluator.table = table
        costs = {"latency": latency_cost(table, evaluator.lengthening), **costs}
        dropped = {}
        if calibrated:
            dropped = slower_levels(asked, table)
            _tell(dropped)
    orders = in_order
    if calibrated:
        importance = _importance(evaluator, asked.compensation)
        orders = {**in_order, **{site: importance.order(site) for site in importance.scores}}
    space = space_of(orders, dropped)
    _keep_token_use(evaluator, space)
    found = _damage(evaluator, space) if calibrated else Damage({}, {})
    neighbours = {tuple(pair.split(" ")): c for pair, c in found.together.items()}
    return Problem(
        space,
        tuple(objectives),
        costs,
        damage=found.alone,
        neighbours=neighbours,  # type: ignore[arg-type]
        limits=limits,
        trivial=_trivial(evaluator),
        epsilon=epsilon,
    )


def _keep_token_use(evaluator: Evaluator, space: SearchSpace) -> None:
    """Store how often tokens occur, for workers that do not have the texts."""
    key = _token_key(evaluator, space.fingerprint)
    for use in {site.token_use for d in space.dimensions for site in d.sites if site.token_use}:
        if load_calibration(evaluator.engine, *key) is None:
            save_calibration(evaluator.engine, *key, use.to_dict())


def stored_token_use(evaluator: Evaluator, spec: StudySpec) -> TokenUse | None:
    """What a search stored for a study's space; None if that needs none."""
    key = _token_key(evaluator, spec.space_fingerprint)
    stored = load_calibration(evaluator.engine, *key)
    return None if stored is None else TokenUse.from_dict(stored)


def _token_key(evaluator: Evaluator, fingerprint: str) -> tuple[str, str, str]:
    return evaluator.task.model_fingerprint, NO_SPLIT, token_kind(fingerprint)


def _sizes(evaluator: Evaluator, space: SearchSpace) -> SizeTable:
    key = evaluator.task.model_fingerprint, NO_SPLIT, size_kind(evaluator.precision)

    def counted(_: Told) -> dict[str, Any]:
        return size_table(evaluator.base, evaluator.precision).to_dict()

    found = SizeTable.from_dict(_stored(evaluator, key, "Counting bytes", counted))
    if all(site.id in found.units for d in space.dimensions for site in d.sites):
        return found
    # Counted by a version that did not know all of these sites.
    replace_calibration(evaluator.engine, *key, counted(lambda *_: None))
    return SizeTable.from_dict(_stored(evaluator, key, "Counting bytes", counted))


def _damage(evaluator: Evaluator, space: SearchSpace) -> Damage:
    calibration = evaluator.task.calibration

    def measured(told: Told) -> dict[str, Any]:
        examples, levels = effort(evaluator.base)
        found = measure_damage(
            evaluator.base,
            lambda recipe: evaluator.weights.shrink(_alone(recipe)),
            space,
            lambda recipe: calibration_sample(evaluator.task.read(calibration, recipe), examples),
            evaluator.predictor,
            most=levels,
            on_recipe=told,
        )
        return {**found.to_dict(), "levels": space.to_dict()}

    kind = damage_kind(space.fingerprint)
    return Damage.from_dict(
        _stored(
            evaluator,
            (evaluator.task.model_fingerprint, calibration.fingerprint, kind),
            "Measuring damage",
            measured,
            compensated=space.compensation != "none",
        )
    )


def _alone(recipe: Recipe) -> Recipe:
    """The recipe whose damage is measured for another.

    Where one block alone lost units, both ways solve the same least squares, but for the ridge and
    the weights of tokens. Where a whole block is missing, refitting all blocks above takes seconds,
    too much for every level of a search.
    """
    if recipe.compensation != "sequential":
        return recipe
    return Recipe.of({site: dict(choices) for site, choices in recipe.sites}, "least_squares")


def _trivial(evaluator: Evaluator) -> float:
    task = evaluator.task
    splits = both_splits(task.calibration.fingerprint, task.search.fingerprint)
    found = _stored(
        evaluator,
        (task.model_fingerprint, splits, trivial_kind(task.metric)),
        "Evaluating a constant prediction",
        lambda _: {"accuracy": task.kind.trivial(task.metric, task.calibration, task.search)},
    )
    return float(found["accuracy"])


def latency_table(
    evaluator: Evaluator, space: SearchSpace, machine: str, tables: int = LATENCY_TABLES
) -> LatencyTable:
    """The latency table of the evaluator's scenario, measured here where ``machine`` has none.

    Args:
        evaluator: of the task, with a scenario.
        space: all levels that must be known, importance aside.
        machine: whose table to take.
        tables: the way in which it was measured. A study of version 0.1 keeps the table that it
            began with; where it is not found, a new one is measured.
    """
    model, workload = evaluator.task.model_fingerprint, evaluator.workload[1]
    table = LatencyTable.from_dict(
        _stored(
            evaluator,
            (model, workload, latency_kind(machine, space.to_dict(), tables)),
            "Timing blocks",
            lambda told: _timed(evaluator, space, told),
            total=ROUNDS,
        )
    )
    if max(table.error, table.error_of_one_size) > INEXACT:
        console.print(inexact(table), style="yellow")
    return table


def table_seconds() -> float:
    """Seconds that a latency table may take to measure; a large model may need more.

    From ``AXSEARCH_TABLE_SECONDS``, else :data:`axsearch.calibration.block_timing.SECONDS`. With
    fewer seconds, blocks are timed in fewer rounds and the table is less exact. Raises UsageError
    where the variable holds anything else.
    """
    given = os.environ.get(SECONDS_VARIABLE, SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UsageError(
            f"{SECONDS_VARIABLE} must be a number of seconds from 0 up, not {given!r}."
        )
    return seconds


def inexact(table: LatencyTable) -> str:
    """What a user is told of a table with large errors, with the remedy."""
    more = f"{SECONDS_VARIABLE}={2 * max(SECONDS, table_seconds()):.0f}"
    return (
        f"The latency table is off by {table.error:.0%} on random models and by "
        f"{table.error_of_one_size:.0%} on models with one size of block. End other work on this "
        f"machine or set {more}, and begin a study in another database."
    )


def _timed(evaluator: Evaluator, space: SearchSpace, told: Told) -> dict[str, Any]:
    scenario = evaluator.scenario
    assert scenario is not None
    batches, workload = evaluator.workload
    seconds = table_seconds()
    with measuring():
        table = measure_latency_table(
            evaluator.base,
            space,
            batches,
            scenario,
            evaluator.examples,
            seconds=seconds,
            on_round=told,
        )
    save_machine(evaluator.engine, machine_name(), machine_facts())
    save_latency_table(
        evaluator.engine,
        LatencyKey(evaluator.task.model_fingerprint, workload, machine_name()),
        scenario.to_dict(),
        {"rest": table.rest, **table.blocks},
        table.rounds,
    )
    return table.to_dict()


def _tell(dropped: Mapping[str, Collection[Level]]) -> None:
    values: dict[str, dict[Level, None]] = {}
    for dimension, levels in dropped.items():
        values.setdefault(dimension.partition(".")[2], {}).update(dict.fromkeys(levels))
    for name, levels in values.items():
        shown = ", ".join(map(str, levels))
        console.print(
            f"Left out of the search, no faster than a more exact level: {name} {shown}",
            style="dim",
        )


def _importance(evaluator: Evaluator, compensation: Compensation) -> Importance:
    if compensation == "sequential":
        return _importance_after_refit(evaluator)
    task = evaluator.task
    return Importance.from_dict(
        _stored(
            evaluator,
            (task.model_fingerprint, task.calibration.fingerprint, importance_kind(compensation)),
            "Scoring heads and neurons",
            lambda told: importance_along_path(
                evaluator.base,
                task.calibration,
                task.kind,
                evaluator.weights.shrink,
                compensation,
                device=evaluator.device,
                on_batch=_counted(told, len(task.calibration) * (1 + len(PATH))),
            ).to_dict(),
            compensated=compensation != "none",
        )
    )


def _importance_after_refit(evaluator: Evaluator) -> Importance:
    """Scores in the base, and orders by what the refit of the others leaves lost."""
    task, base = evaluator.task, evaluator.base

    def measured(told: Told) -> dict[str, Any]:
        scores = fisher_importance(
            base,
            task.calibration,
            task.kind,
            device=evaluator.device,
            on_batch=_counted(told, len(task.calibration)),
        ).scores
        return Importance(scores, orders_after_refit(base, evaluator.moments)).to_dict()

    key = (
        task.model_fingerprint, task.calibration.fingerprint, importance_kind("sequential")
    )  # fmt: skip
    found = _stored(evaluator, key, "Scoring heads and neurons", measured, compensated=True)
    return Importance.from_dict(found)


def _counted(told: Told, total: int) -> Callable[[int], None]:
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        told(done, total)

    return more


def _stored(
    evaluator: Evaluator,
    key: tuple[str, str, str],
    what: str,
    measure: Callable[[Told], dict[str, Any]],
    total: int | None = None,
    compensated: bool = False,
) -> dict[str, Any]:
    stored = load_calibration(evaluator.engine, *key)
    if stored is None:
        if compensated:
            # With its own progress bar, not in the midst of another; what trials need to be
            # refitted sequentially is not needed here.
            evaluator.weights.prepare("least_squares")
        with progress_bar() as progress:
            bar = progress.add_task(f"Calibrating · {what}", total=total)
            found = measure(lambda done, of: progress.update(bar, completed=done, total=of))
        save_calibration(evaluator.engine, *key, found)
        stored = load_calibration(evaluator.engine, *key)
    assert stored is not None
    return stored
