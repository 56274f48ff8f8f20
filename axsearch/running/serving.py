"""What is measured in the runtime that serves: the base in each precision, and the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch

from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.latency import measure_latency
from axsearch.evaluation.loading import shown_evaluators
from axsearch.evaluation.serving import served_accuracy
from axsearch.evaluation.size import model_bytes
from axsearch.evaluation.trained import MissingWeightsError
from axsearch.graphs.onnx import ConversionError
from axsearch.models.weights import Weights
from axsearch.progress import console, progress_bar, steps
from axsearch.running.resolving import Resolved
from axsearch.runtimes import open_session, runtimes
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import PRECISION, RUNTIME, Scenario
from axsearch.store.calibration_keys import baselines_kind
from axsearch.store.database import Database
from axsearch.store.queries import Evaluation, load_calibration, replace_calibration
from axsearch.study.baselines import TimedBase, TimedBases
from axsearch.study.settings import AUTO
from axsearch.study.spec import StudySpec
from axsearch.study.study import Study
from axsearch.system.machine import machine_name, measuring
from axsearch.tasks.task import Task

KEPT = 0.005
"""The drop of the base on the search split up to which ``auto`` takes a precision."""

FASTER = 0.95
"""The time over that in float32 from which a precision saves next to nothing."""


def scenario_of(
    resolved: Resolved, task: Task, database: Database, known: StudySpec | None
) -> Scenario | None:
    """What latency is measured for; None where it is not.

    The precision ``auto`` is that of the study, if it exists; else the fastest in which the base
    has a drop of at most :data:`KEPT` on the search split.
    """
    if not resolved.timed:
        return None
    asked = resolved.request
    load, runtime = asked.load, runtimes()[asked.load.runtime]
    threads = load.threads or torch.get_num_threads()  # a number, or a resumed study could mix two
    device = asked.device if asked.device in runtime.devices else runtime.devices[0]
    scenario = Scenario(
        load.batch_size, load.sequence_length, threads, device, load.runtime, load.precision
    )
    if load.precision != AUTO:
        return scenario
    if known is not None and known.scenario is not None:
        return replace(scenario, precision=known.scenario.precision)
    variants = [replace(scenario, precision=precision) for precision in runtime.precisions]
    first = next((one for one in variants if not one.is_reference), variants[0])
    return replace(scenario, precision=_fastest(task, database, first, asked.device))


def _fastest(task: Task, database: Database, scenario: Scenario, device: str) -> str:
    evaluator = Evaluator(task, database.engine, scenario, device)
    exact = evaluator.accuracy(EXACT, task.search).value
    kept = {}
    for one in measure_baselines(evaluator):
        if one.runtime == scenario.runtime:
            own = _accuracy(evaluator, one)
            if exact - own.value <= KEPT:
                kept[one.precision] = one.ratio
    found = min(kept, key=lambda precision: kept[precision], default=PRECISION)
    console.print(
        f"Precision {found}: the fastest in which the base loses at most {KEPT:g}.", style="dim"
    )
    return found


def measure_baselines(evaluator: Evaluator) -> tuple[TimedBase, ...]:
    """Time and evaluate the base in each precision of the scenario's runtime and in PyTorch.

    Nothing is measured again that is stored, and nothing where the scenario is for PyTorch's
    float32, which is what trials are evaluated in. What was found is printed once. A precision in
    which the base cannot be run is left out, unless it is the scenario's.

    Raises:
        ConversionError: the base cannot be brought into the scenario's runtime and precision.
        NonFiniteError: it has numbers that are not finite there.
    """
    scenario = evaluator.scenario
    if scenario is None or scenario.is_reference:
        return ()
    task, engine = evaluator.task, evaluator.engine
    key = (task.model_fingerprint, evaluator.workload[1], baselines_kind(machine_name()))
    stored = load_calibration(engine, *key)
    known = [] if stored is None else [*TimedBases.model_validate(stored).bases]
    there = {(one.runtime, one.precision) for one in known}
    missing = [one for one in _variants(scenario) if (one.runtime, one.precision) not in there]
    if missing:
        known += _measured(evaluator, scenario, missing)
        bases = TimedBases(bases=tuple(known))
        replace_calibration(engine, *key, bases.model_dump(mode="json"))
    found = tuple(one for one in known if _is_finite(evaluator, one))
    if missing:
        _say(evaluator, found)
    return found


def _variants(scenario: Scenario) -> list[Scenario]:
    """PyTorch's float32, and each precision of the runtime whose packages are installed."""
    runtime = runtimes()[scenario.runtime]
    reference = replace(scenario, runtime=RUNTIME, precision=PRECISION)
    own = [replace(scenario, precision=p) for p in runtime.precisions if runtime.missing(p) is None]
    return list(dict.fromkeys([*own, reference]))


def _measured(
    evaluator: Evaluator, scenario: Scenario, variants: Sequence[Scenario]
) -> list[TimedBase]:
    found = []
    with steps(len(variants)) as begin:
        for variant in variants:
            words = f"{runtimes()[variant.runtime].title} {variant.precision}"
            begin(f"Measuring the base in {words}")
            try:
                found.append(_timed(evaluator, scenario, variant))
            except ConversionError as error:
                if variant == scenario:
                    raise
                console.print(f"The base cannot be measured in {words}: {error}", style="yellow")
    return found


def _is_finite(evaluator: Evaluator, one: TimedBase) -> bool:
    """Whether the base can be evaluated in a precision; raises NonFiniteError for the study's."""
    try:
        _accuracy(evaluator, one)
    except NonFiniteError:
        scenario = evaluator.scenario
        if scenario and (one.runtime, one.precision) == (scenario.runtime, scenario.precision):
            raise
        console.print(
            f"In {one.title} {one.precision} the base has numbers that are not finite.",
            style="yellow",
        )
        return False
    return True


def _timed(evaluator: Evaluator, scenario: Scenario, variant: Scenario) -> TimedBase:
    """The base in a variant of the scenario, timed in turn with the base in the scenario."""
    model, examples = evaluator.base.model, evaluator.examples
    with (
        measuring(),
        open_session(model, scenario, examples) as base,
        open_session(model, variant, examples) as other,
    ):
        found = measure_latency(base, other, evaluator.workload[0])
        size = other.size_bytes
    if size is None:
        size = model_bytes(evaluator.base.state, evaluator.base.dtype, variant.precision)
    own = variant == scenario
    runtime = runtimes()[variant.runtime]
    return TimedBase(
        runtime=runtime.name,
        title=runtime.title or runtime.name,
        format=runtime.export_format,
        precision=variant.precision,
        ratio=1.0 if own else found.ratio,
        low=found.low,
        high=found.high,
        ms=found.model_ms,
        size_bytes=size,
    )


def _accuracy(evaluator: Evaluator, one: TimedBase) -> Evaluation:
    scenario = evaluator.scenario
    assert scenario is not None
    variant = replace(scenario, runtime=one.runtime, precision=one.precision)
    if variant.is_reference:
        return evaluator.accuracy(EXACT, evaluator.task.search)
    return served_accuracy(
        evaluator.engine, evaluator.task, variant, EXACT, evaluator.task.search,
        evaluator.reference,
    )  # fmt: skip


def _say(evaluator: Evaluator, found: Sequence[TimedBase]) -> None:
    ratios = {(one.runtime, one.precision): one.ratio for one in found}
    in_torch = ratios[RUNTIME, PRECISION]
    for one in sorted(found, key=lambda one: -one.ratio):
        accuracy = _accuracy(evaluator, one).value
        console.print(
            f"The base in {one.title} {one.precision}: {one.ratio / in_torch:.3f} of its time in "
            f"PyTorch {PRECISION}, {one.size_bytes / 1e6:.1f} MB, "
            f"{evaluator.task.metric} {accuracy:.4f}.",
            style="dim",
        )
    scenario = evaluator.scenario
    assert scenario is not None
    plain = ratios.get((scenario.runtime, PRECISION))
    if plain is not None and scenario.precision != PRECISION and FASTER * plain < 1:
        console.print(
            f"{scenario.precision} saves next to nothing in {scenario.runtime} on this processor: "
            f"it takes {1 / plain:.2f} of the time of {PRECISION}. Search in {PRECISION}, or on "
            "the kind of machine that will serve the model.",
            style="yellow",
        )


def serve_front(study: Study, evaluator: Evaluator) -> int:
    """Time and evaluate the models of a study's front in the runtime that will serve them.

    Their accuracies count from then on, so that others may come onto the front; these are served in
    turn. Each model is stored when it is done, so an interrupted call can be continued.

    Args:
        study: with finished trials; what was read of it is forgotten.
        evaluator: of its task, with its scenario.

    Returns:
        How many models were evaluated.
    """
    scenario = evaluator.scenario
    if scenario is None or scenario.is_reference or not study.has_baseline:
        return 0
    done = 0
    failed: dict[str, str] = {}
    while wanted := [recipe for recipe in _unserved(study) if recipe.hash not in failed]:
        shown = shown_evaluators(study, evaluator.task, wanted)
        with progress_bar() as progress:
            for recipe in progress.track(wanted, description="Serving the front"):
                try:
                    _serve(study, evaluator, scenario, recipe, shown[recipe.hash].weights)
                    done += 1
                except (NonFiniteError, ConversionError, MissingWeightsError) as error:
                    failed[recipe.hash] = str(error)
        study.refresh()
    _say_failed(study, scenario, failed)
    return done


def _say_failed(study: Study, scenario: Scenario, failed: Mapping[str, str]) -> None:
    """Which models of the front a runtime cannot serve, by their recipes' hashes, and why."""
    trials: dict[str, list[str]] = {}
    for member in study.front():
        reason = failed.get(Recipe.from_dict(member.recipe).hash)
        if reason is not None:
            trials.setdefault(reason, []).append(str(member.trial))
    for reason, own in trials.items():
        console.print(
            f"{scenario.runtime} {scenario.precision} cannot serve the models of trials "
            f"{', '.join(own)}, whose accuracies stay those of PyTorch: {reason}",
            style="yellow",
        )


def _serve(
    study: Study, evaluator: Evaluator, scenario: Scenario, recipe: Recipe, weights: Weights
) -> None:
    task = evaluator.task
    small = cache(lambda: weights.shrink(recipe))  # not built where all is stored
    if study.spec.machine == machine_name():
        evaluator.latency(recipe, small)
    served_accuracy(evaluator.engine, task, scenario, recipe, task.search, weights, small)


def _unserved(study: Study) -> list[Recipe]:
    """The members of the front that were not evaluated in the study's runtime."""
    recipes = [Recipe.from_dict(member.recipe) for member in study.front()]
    known = study.served([recipe.hash for recipe in recipes])
    return [r for r in recipes if r != EXACT and r.hash not in known]
