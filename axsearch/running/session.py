"""A study's problem and worker, from its specification in the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from axsearch.approximations import Level, approximations
from axsearch.approximations.ffn_width.choice import FfnWidth
from axsearch.approximations.layer.choice import Layer
from axsearch.approximations.site import SiteId, TokenUse
from axsearch.calibration.preparation import prepare, stored_token_use
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task
from axsearch.progress import console
from axsearch.running.worker import Worker
from axsearch.runtimes import runtimes
from axsearch.samplers import sampler_named
from axsearch.space.genome import (
    SearchSpace,
    approximations_of,
    frozen_sites,
    reads_texts,
    supported,
)
from axsearch.space.problem import Problem
from axsearch.space.scenario import RUNTIME
from axsearch.store.calibration_keys import LATENCY_TABLES
from axsearch.store.database import Database
from axsearch.study.settings import SearchSettings
from axsearch.study.spec import StudySpec
from axsearch.study.study import Study
from axsearch.system.machine import machine_name
from axsearch.tasks.task import Task

SpaceOf = Callable[[Mapping[SiteId, Sequence[int]], Mapping[str, Collection[Level]]], SearchSpace]
"""Builds a study's space from importance orders and the levels to leave out."""


def spaces(
    task: Task,
    settings: SearchSettings,
    compensation: str,
    known: StudySpec | None = None,
    runtime: str = RUNTIME,
    use: TokenUse | None = None,
) -> SpaceOf:
    """A function that builds a study's search space; raises UsageError for unknown names.

    A study that exists, whose specification is ``known``, keeps the approximations that a search
    tried by default when it began. What saves no time in the runtime is not tried by default.
    ``use`` is how often tokens occur, where that is known and need not be counted.
    """
    sites = list(task.base.sites.values())
    frozen = frozen_sites(settings.freeze, sites)
    names = settings.approximations
    if names is None and known is not None:
        names = approximations_of(known.levels)
    elif names is None and settings.portable:
        names = (Layer.name, FfnWidth.name)
    if reads_texts(names or ()):
        sites = task.with_token_use(sites, use)
    elif task.source.spec.vocabulary_from is not None:
        raise UsageError(
            "`vocabulary_from` is for a search with `approximations=vocabulary` among others, and "
            "this one does not try that."
        )
    if not runtimes()[runtime].kernels:
        every = approximations()
        tried = names or supported([n for n, one in every.items() if one.searched], sites)
        names = tuple(name for name in tried if not every[name].kernel)

    def space_of(
        orders: Mapping[SiteId, Sequence[int]], dropped: Mapping[str, Collection[Level]]
    ) -> SearchSpace:
        space = SearchSpace(
            sites,
            orders,
            names=names,
            frozen=frozen,
            compensation=compensation,  # type: ignore[arg-type]
            dropped=dropped,
        )
        odd = _not_plain(task, space) if settings.portable else {}
        if not odd:
            return space
        if all(len(odd.get(d.name, ())) == len(d.levels) - 1 for d in space.dimensions):
            raise UsageError(
                "`portable=True` leaves nothing to search: no class of transformers holds a "
                f"smaller {task.model.config.model_type} like this one."
            )
        every = {name: {*dropped.get(name, ()), *odd.get(name, ())} for name in {*dropped, *odd}}
        return space_of(orders, every)

    return space_of


def _not_plain(task: Task, space: SearchSpace) -> dict[str, list[Level]]:
    """The levels that leave no plain checkpoint, by the names of their parameters.

    A family may need its first layer, say, or give layers a scale by their place.
    """
    found: dict[str, list[Level]] = {}

    def plain(levels: Mapping[str, int]) -> bool:
        return task.base.plan(space.recipe({**space.exact(), **levels})).plain

    for dimension in space.dimensions:
        for number, level in enumerate(dimension.levels[1:], 1):
            if not plain({dimension.name: number}):
                found.setdefault(dimension.name, []).append(level)
    # A family may have to keep some layer where all are lost: the first ones then stay.
    last = {d.name: len(d.levels) - 1 for d in space.dimensions if d.name not in found}
    for dimension in space.dimensions:
        if plain(last):
            break
        if last.pop(dimension.name, 0):
            found[dimension.name] = list(dimension.levels[1:])
    return found


def problem_of(
    evaluator: Evaluator,
    spec: StudySpec,
    settings: SearchSettings,
    use: TokenUse | None = None,
) -> Problem:
    """What is measured before a study's first trial, or read where it was; sets the evaluator's
    latency table. ``use`` is as for :func:`spaces`.
    """
    return prepare(
        evaluator,
        spaces(evaluator.task, settings, spec.compensation, spec, _runtime(spec), use),
        spec.machine,
        spec.latency_tables,
        objectives=spec.objectives,
        limits=spec.limits.given,
        epsilon=settings.epsilon,
        calibrated=sampler_named(settings.sampler).needs_calibration,
    )


def _runtime(spec: StudySpec) -> str:
    return RUNTIME if spec.scenario is None else spec.scenario.runtime


def work(
    database: Database,
    name: str,
    *,
    model: str | None = None,
    data: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> None:
    """Be one worker of a study that ``axsearch search`` made, until enough of it is finished.

    Args:
        database: an open one, with the study.
        name: of the study.
        model: where the model lies on this machine, if elsewhere than where the study began.
        data: the same for the data.
        device: where to evaluate accuracy, if not where the study does.
        threads: of torch, for accuracy; all if None.

    Raises:
        UsageError: no such study, or another model, data or space than it was made with.
        AxsearchError: trials keep failing.
        KeyboardInterrupt: a signal came; finished trials are kept.
    """
    study = Study.of(database, name)
    wanted, settings = study.asked
    spec = study.spec
    if threads is not None:
        torch.set_num_threads(threads)
    task = load_task(spec, model=model, data=data, device=device)
    where = device or spec.device
    evaluator = Evaluator(
        task, database.engine, spec.scenario, where, spec.dtype, machine=spec.machine
    )
    problem = problem_of(evaluator, spec, settings, stored_token_use(evaluator, spec))
    if problem.space.fingerprint != spec.space_fingerprint:
        raise UsageError(f"Study {name!r} exists with another search space; use another name.")
    Worker(study, evaluator, problem, settings).until(wanted)


EARLIER = (
    "This study's latency table was measured by axsearch 0.1, which could misjudge blocks of "
    "models that are not tiny. For better latencies run `axsearch remeasure`, or begin a study "
    "with another name."
)
"""What a search says of a study that began before latency tables were measured as they are now."""


def warn_of_tables(spec: StudySpec) -> None:
    """Say where predicted latencies are those of an earlier version, or of another machine."""
    if spec.latency_tables < LATENCY_TABLES:
        console.print(EARLIER, style="yellow")
    if spec.machine != machine_name():
        console.print(
            f"Latencies are predicted for the machine that the study began on ({spec.machine}), "
            "not for this one.",
            style="yellow",
        )
