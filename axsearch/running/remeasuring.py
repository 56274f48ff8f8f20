"""Rank a study's models for another machine or scenario, without searching again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from axsearch.approximations import recorded
from axsearch.calibration.preparation import latency_table, stored_token_use
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.latency import Latency
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.evaluation.serving import served_accuracy
from axsearch.evaluation.size import model_bytes
from axsearch.progress import progress_bar, steps
from axsearch.running.serving import measure_baselines
from axsearch.running.session import spaces
from axsearch.runtimes import check, runtimes
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import PRECISION, Scenario, in_words
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.study.choosing import ORDERS
from axsearch.study.evaluations import with_accuracy
from axsearch.study.fronts import front_of
from axsearch.study.rankings import keep_ranking, with_latency
from axsearch.study.study import Study
from axsearch.system.devices import check_device
from axsearch.system.machine import machine_name


@dataclass(frozen=True)
class Ranking:
    """The front of a study in one scenario on one machine.

    Attributes:
        machine: where it was timed.
        scenario: that it was timed for, as plain data.
        baseline: the base.
        front: its members, fastest first, with latencies of the scenario.
        latencies: what was measured, by trial.
    """

    machine: str
    scenario: dict[str, Any]
    baseline: Measurement
    front: list[Measurement]
    latencies: dict[int, Latency]

    @property
    def words(self) -> str:
        """The scenario in words."""
        return in_words(Scenario.from_dict(self.scenario))


def remeasure(
    study: Study,
    *,
    model: str | None = None,
    data: str | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    again: bool = False,
) -> Ranking:
    """Time a study's models in another scenario, or on this machine, and rank them again.

    A latency table is measured first, if this machine has none for the scenario. With it the front
    is computed again from all finished trials, so that a model which was not worthwhile in the
    study's own scenario can be on it; the front's real models are then timed, each in turn with the
    base. Accuracies are those of the study; in another runtime or precision the front is evaluated
    as it is served there. A limit of the study on latency is ignored: it was set for another
    scenario. All results are stored, so that an interrupted call can be continued.

    Args:
        study: with finished trials.
        model: where the model lies on this machine, if elsewhere than where the study began.
        data: the same for the data.
        batch_size: the study's if None, as for the rest of the scenario.
        sequence_length: tokens per example, drawn at random; 0 for the examples' own lengths.
        threads: number of torch threads.
        device: cpu, cuda or mps.
        runtime: models whose choices save no time there, such as top-k, are left out.
        precision: one of the runtime's; float32 if None where ``runtime`` is given.
        again: time models again that were already timed in this scenario.

    Raises:
        UsageError: a scenario that the model cannot run in, a database that can only be read, or
            the study's model or data have changed.
    """
    precision = precision or (PRECISION if runtime is not None else None)
    asked = {
        "batch_size": batch_size, "sequence_length": sequence_length, "threads": threads,
        "device": device, "runtime": runtime, "precision": precision,
    }  # fmt: skip
    scenario = _scenario(study, {n: value for n, value in asked.items() if value is not None})
    study.database.check_writable()
    _ = study.baseline  # or there is nothing to rank
    evaluator = _evaluator(study, scenario, model, data)
    base = evaluator.latency(EXACT, again=again)
    assert base is not None
    measure_baselines(evaluator)
    own = scenario.is_reference and not study.spec.served
    view = study if own else _in_scenario(study, scenario)
    fit = [m for m in view.measurements if _saves_time(m, scenario)]
    predicted = [_predicted(evaluator, m, base, again) for m in fit]
    baseline = next(m for m in predicted if m.recipe == EXACT.to_dict())
    members = _served_front(view, evaluator, baseline, predicted)
    front, latencies = _timed(evaluator, members, base, again)
    timed = _with(baseline, 1.0, base, measured=True)
    keep_ranking(study, scenario, evaluator.workload[1], machine_name(), front, timed)
    return Ranking(machine_name(), scenario.to_dict(), timed, front, latencies)


def _scenario(study: Study, given: Mapping[str, Any]) -> Scenario:
    """The study's scenario with what was given in place of its own; raises UsageError."""
    given = {**given}
    if given.get("sequence_length") == 0:
        given["sequence_length"] = None
    for name in ("batch_size", "sequence_length", "threads"):
        if (value := given.get(name)) is not None and value < 1:
            raise UsageError(f"`{name}` must be at least 1, not {value}.")
    scenario = replace(study.spec.scenario or Scenario(device=study.spec.device), **given)
    check(scenario.runtime, scenario.precision)
    check_device(scenario.device)
    threads = scenario.threads or torch.get_num_threads()  # a number, as in a study
    devices = runtimes()[scenario.runtime].devices
    place = scenario.device if scenario.device in devices else devices[0]
    return replace(scenario, threads=threads, device=place)


def _evaluator(study: Study, scenario: Scenario, model: str | None, data: str | None) -> Evaluator:
    """The study's task with the latency table of a scenario, measured where there is none.

    Raises UsageError where the model cannot run in it, or model or data are not the study's.
    """
    _, settings = study.asked
    with steps(1) as begin:
        begin("Loading model and data")
        task = load_task(study.spec, model=model, data=data, device=scenario.device)
    longest = task.base.family.longest(task.model.config)
    if (scenario.sequence_length or 0) > longest:
        raise UsageError(
            f"`sequence_length={scenario.sequence_length}` is above the model's {longest}."
        )
    evaluator = Evaluator(task, study.database.engine, scenario, scenario.device, study.spec.dtype)
    use = stored_token_use(evaluator, study.spec)
    space_of = spaces(task, settings, study.spec.compensation, study.spec, scenario.runtime, use)
    space = space_of({site.id: range(site.count) for site in task.base.sites.values()}, {})
    evaluator.table = latency_table(evaluator, space, machine_name())
    return evaluator


def _predicted(
    evaluator: Evaluator, measurement: Measurement, base: Latency, again: bool
) -> Measurement:
    """A measurement with the latency that the table predicts, or that of its model."""
    recipe = Recipe.from_dict(measurement.recipe)
    ratio = evaluator.predicted_ratio(recipe)
    if ratio is None:  # a k that the table lacks: the search timed its model as well
        found = evaluator.latency(recipe, again=again)
        ratio = found.ratio if found is not None else None
    return _with(_sized(evaluator, measurement, recipe), ratio, base)


def _sized(evaluator: Evaluator, measurement: Measurement, recipe: Recipe) -> Measurement:
    """A measurement with the size in the scenario's precision."""
    base = evaluator.base
    whole = model_bytes(base.state, base.dtype, evaluator.precision)
    if recipe == EXACT and whole == measurement.size_bytes:
        return measurement
    size = model_bytes(base.cut(recipe), base.dtype, evaluator.precision)
    return measurement.model_copy(update={"size_bytes": size, "size_ratio": size / whole})


def _saves_time(measurement: Measurement, scenario: Scenario) -> bool:
    """Whether a model makes no choice that the scenario's runtime has no kernel for."""
    if runtimes()[scenario.runtime].kernels:
        return True
    choices = Recipe.from_dict(measurement.recipe).choices()
    return not any(recorded(site.kind)[name].kernel for site, name, _ in choices)


def _timed(
    evaluator: Evaluator, members: Sequence[Measurement], base: Latency, again: bool
) -> tuple[list[Measurement], dict[int, Latency]]:
    """The members with measured latencies, and what was measured, by trial; fastest first."""
    found: list[tuple[Measurement, Latency]] = []
    with progress_bar() as progress:
        for member in progress.track(members, description="Timing the front"):
            own = evaluator.latency(Recipe.from_dict(member.recipe), again=again)
            assert own is not None
            found.append((_with(member, own.ratio, base, measured=True), own))
    found.sort(key=lambda pair: ORDERS["latency"](pair[0]))
    return [member for member, _ in found], {member.trial or 0: own for member, own in found}


def _in_scenario(study: Study, scenario: Scenario) -> Study:
    """The study as if it were about a scenario: with accuracies of models as they are served there,
    where these are known, else with those of their trials or polished weights.
    """
    spec = study.spec.model_copy(update={"scenario": scenario, "workload": None})
    return Study(study.database, study.name, spec, study.identity)


def _served_front(
    view: Study, evaluator: Evaluator, baseline: Measurement, models: list[Measurement]
) -> list[Measurement]:
    """The front, of models evaluated as the scenario serves them.

    Accuracies change when a model is served, so that others may come onto the front; these are
    served in turn.
    """
    scenario, task, spec = evaluator.scenario, evaluator.task, with_latency(view.spec)
    assert scenario is not None
    models, known = [*models], view.served([Recipe.from_dict(m.recipe).hash for m in models])
    while True:
        front = front_of(spec, baseline, models)
        wanted = [] if scenario.is_reference else [Recipe.from_dict(m.recipe) for m in front]
        wanted = [recipe for recipe in wanted if recipe.hash not in known]
        if not wanted:
            return front
        shown = shown_evaluators(view, task, wanted)
        with progress_bar() as progress:
            for recipe in progress.track(wanted, description="Serving the front"):
                weights = shown[recipe.hash].weights
                own = served_accuracy(
                    evaluator.engine, task, scenario, recipe, task.search, weights
                )
                known[recipe.hash] = Estimate(own.value, own.low, own.high)
                at = next(i for i, m in enumerate(models) if m.recipe == recipe.to_dict())
                models[at] = with_accuracy(models[at], known[recipe.hash])


def _with(
    measurement: Measurement, ratio: float | None, base: Latency, *, measured: bool = False
) -> Measurement:
    return measurement.model_copy(
        update={
            "latency_ratio": ratio,
            "latency_ms": None if ratio is None else ratio * base.base_ms,
            "latency_measured": measured,
            "latency_predicted": None,
        }
    )
