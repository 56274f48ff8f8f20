"""One worker: evaluates the trials of a study with a model of its own in memory."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from axsearch.calibration.damage import divergence_of_losses
from axsearch.errors import AxsearchError, cause
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import EXACT, Evaluator
from axsearch.evaluation.stages import Bar, DominatedError, worth
from axsearch.progress import console, progress_bar
from axsearch.reporting.dashboard.serving import annotate, is_due
from axsearch.running.trial_loop import End, TrialLoop
from axsearch.samplers import build_sampler, finished, own_approximations
from axsearch.samplers.warm_start import warm_start
from axsearch.space.problem import Genomes, Problem
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.store.attributes import (
    CONSTRAINTS_ATTR,
    DIVERGENCE_ATTR,
    MEAN_LOSS_ATTR,
    MEASUREMENT_ATTR,
    NOT_WORSE_ATTR,
    STOPPED_ATTR,
)
from axsearch.store.outages import at_once, is_of_database
from axsearch.study.spec import OBJECTIVES, Settings, limits
from axsearch.study.study import Study, front_of
from axsearch.system.liveness import is_dead, worker_name
from axsearch.system.machine import machine_name


class Worker:
    """One process's work on a study.

    Args:
        study: to work on.
        evaluator: of the study's task, with its latency table.
        problem: what the sampler is told.
        settings: how trials are run.
    """

    def __init__(
        self, study: Study, evaluator: Evaluator, problem: Problem, settings: Settings
    ) -> None:
        self.study = study
        self.evaluator = evaluator
        self.problem = problem
        self.space = problem.space
        # A greedy that begins at the base must go through models above a limit.
        self.greedy = own_approximations(settings.sampler) is not None
        self.staged = settings.staged
        self.warm_start = [self.space.exact()] if self.greedy else warm_start(problem)
        self.objectives = [OBJECTIVES[name] for name in study.spec.objectives]
        self.optuna = study.optuna
        self.optuna.sampler = build_sampler(settings.sampler, problem, study.spec.seed)
        self.storage = study.database.storage
        self.name = worker_name()
        self.finished: list[Measurement] = []
        self._seen: set[int] = set()
        self._has_base = False
        self._front: list[Measurement] | None = None
        self._evaluating = 0.0
        self._noted = 0

    def until(self, wanted: int) -> None:
        """Run trials until ``wanted`` models are finished, by all workers; then time the front.

        Raises:
            AxsearchError: trials keep failing, or the study was deleted.
            KeyboardInterrupt: a signal came; what was finished is kept.
        """
        self._sync()
        try:
            if self._count() < wanted or not self._has_base:
                self._run(wanted)
            else:
                console.print(f"Study {self.study.name!r} already has {self._count()} trials.")
            self._time_front()
        except BaseException:
            # The study or its database may be gone: what ended the work is told, not that.
            with suppress(Exception), at_once():
                self._note()
            raise
        self._note()

    def _note(self) -> None:
        """Bring the notes and figures in the dashboard up to date."""
        self._sync()
        if self._has_base:
            self.study.refresh()
            try:
                annotate(self.study)
            except Exception as error:
                if is_of_database(error):
                    raise
                # A search of hours does not end for what can be drawn later.
                console.print(
                    "The notes and figures for the dashboard could not be brought up to date: "
                    f"{type(error).__name__}: {cause(error)}.",
                    style="yellow",
                )

    def _run(self, wanted: int) -> None:
        if self.space.compensation != "none":
            # With its own progress bar, not in the midst of a trial.
            self.evaluator.weights.prepare()
        self._enqueue(wanted - self._count())
        began, evaluating = time.monotonic(), 0.0
        with progress_bar() as progress:
            bar = progress.add_task("Searching", total=wanted, completed=self._count())

            def tell(count: int) -> None:
                nonlocal evaluating
                evaluating += self._evaluating
                standing = self._standing()
                progress.update(bar, completed=count, description=f"Searching · {standing}")
                if not console.is_terminal:
                    spent = f"{time.monotonic() - began:.0f} s"
                    console.print(f"trial {count}/{wanted} · {spent} · {standing}")
                if is_due(count) and count != self._noted:  # a known model leaves it as it is
                    self._noted = count
                    self._note()

            loop = TrialLoop(
                self.optuna,
                self.storage,
                self,
                worker=self.name,
                wanted=max(wanted, self._count() + (not self._has_base)),
                is_dead=is_dead,
                on_trial=tell,
                ready=self._ready,
            )
            loop.run()
        if loop.done:
            spent = time.monotonic() - began
            stopped = self.optuna.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
            console.print(
                f"{loop.done} trials in {spent:.0f} s, of which sampler, storage and dashboard "
                f"took {(loop.spent - evaluating) / loop.done * 1e3:.0f} ms a trial; "
                f"{len(stopped)} of all trials were stopped: above a limit, or confidently adding "
                "next to nothing.",
                style="dim",
            )

    def _ready(self) -> bool:
        """See to the base, without which no study has a baseline; true where all is tried."""
        if not self._has_base:
            self._sync()
        if not self._has_base and self._queue(self.space.exact()) == "given up":
            raise AxsearchError(
                "The base itself cannot be evaluated; see why its trials failed, above or in the "
                "dashboard."
            )
        if finished(self.optuna.sampler, self.optuna):
            console.print(f"The sampler has made all its steps: {self._count()} trials.")
            return True
        return False

    def _enqueue(self, room: int) -> None:
        for genome in self.warm_start:
            if room <= 0:
                break
            room -= self._queue(genome) in ("own", "held")

    def _queue(self, genome: Mapping[str, int]) -> str:
        return self.storage.enqueue(self.study.id, self.space.recipe(genome), genome).state

    def _time_front(self) -> None:
        """Time the real models of the front, each in turn with the base."""
        if self.evaluator.scenario is None or self.study.spec.machine != machine_name():
            return
        self._sync()
        with progress_bar() as progress:
            for member in progress.track(self.front, description="Timing the front"):
                self.evaluator.latency(Recipe.from_dict(member.recipe))

    @property
    def front(self) -> list[Measurement]:
        """The front so far."""
        if self._front is None:
            base = self.evaluator.baseline
            self._front = front_of(self.study.spec, base, self.finished)
        return self._front

    def _sync(self) -> None:
        """Read what was finished, here and elsewhere, since this was called last."""
        trials = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        new = [trial for trial in trials if trial.number not in self._seen]
        if not new:
            return
        found = self.study.measured(new)
        self._seen.update(trial.number for trial in new)
        self.finished += found
        self._has_base = self._has_base or any(m.recipe == EXACT.to_dict() for m in found)
        if self._front is not None:
            base = self.evaluator.baseline
            self._front = front_of(self.study.spec, base, [*self._front, *found])

    def _count(self) -> int:
        return self.storage.finished(self.study.id)

    # What the loop evaluates

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """Suggest a genome."""
        genome = {
            name: trial.suggest_int(name, distribution.low, distribution.high)
            for name, distribution in self.space.distributions().items()
        }
        return self.space.recipe(genome)

    def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
        """Evaluate a recipe; raises NonFiniteError where its model gives no finite numbers."""
        started = time.perf_counter()
        costs = self.problem.array(trial.params)[None]
        if recipe != EXACT and not self.greedy and not self.problem.feasible(costs)[0]:
            self._evaluating = 0.0
            return self._above_a_limit(trial, costs)
        self._sync()
        staged = self.staged and recipe != EXACT
        evaluator, spec = self.evaluator, self.study.spec
        began = time.perf_counter()
        try:
            found = evaluator.measure(recipe, trial=trial.number, bar=self._bar if staged else None)
            losses = evaluator.losses(recipe)
        except DominatedError as stop:
            seen = {"examples": stop.seen, "dominated_by": stop.rival, **stop.estimate._asdict()}
            trial.set_user_attr(STOPPED_ATTR, seen)
            return End(None, self._columns(time.perf_counter() - started))
        except NonFiniteError:
            trial.set_user_attr(STOPPED_ATTR, {"reason": "numbers that are not finite"})
            raise
        finally:
            self._evaluating = time.perf_counter() - began
        base_accuracy, base_losses = evaluator.baseline.accuracy, evaluator.losses(EXACT)
        trial.set_user_attr(
            MEASUREMENT_ATTR,
            found.model_dump(mode="json", exclude={"trial", "recipe", "holdout_accuracy"}),
        )
        trial.set_user_attr(MEAN_LOSS_ATTR, float(losses.mean(dtype=np.float64)))
        trial.set_user_attr(NOT_WORSE_ATTR, float((losses <= base_losses).mean()))
        trial.set_user_attr(DIVERGENCE_ATTR, divergence_of_losses(losses, base_losses))
        excess = limits(spec, base_accuracy, found)
        self._constrain(trial, excess)
        feasible = all(value <= 1e-12 for value in excess.values())
        return End(
            tuple(objective.value(found) for objective in self.objectives),
            self._columns(time.perf_counter() - started, found, feasible),
            _files(recipe, found) if feasible and self._is_new(found) else {},
        )

    def _columns(
        self, seconds: float, found: Measurement | None = None, feasible: bool = False
    ) -> dict[str, Any]:
        columns: dict[str, Any] = {"seconds": seconds, "worker": self.name}
        if found is None:
            return columns
        names = self.study.spec.objectives
        return columns | {
            "feasible": feasible,
            "accuracy": found.accuracy,
            "accuracy_low": found.accuracy_low,
            "accuracy_high": found.accuracy_high,
            "latency": found.objective_latency if "latency" in names else None,
            "size": found.size_ratio if "size" in names else None,
            "latency_ratio": found.latency_ratio,
            "size_ratio": found.size_ratio,
            "size_bytes": found.size_bytes,
            "parameters": found.parameters,
        }

    def _is_new(self, found: Measurement) -> bool:
        """Whether a model comes on the front; what will be on it in the end does so now."""
        return found in front_of(self.study.spec, self.evaluator.baseline, [*self.front, found])

    def _above_a_limit(self, trial: optuna.Trial, genome: Genomes) -> End:
        """End a trial that is known to break a limit before its model is made."""
        excess = self.problem.excess(genome)
        self._constrain(trial, {name: float(over[0]) for name, over in excess.items()})
        trial.set_user_attr(STOPPED_ATTR, {"reason": "above a limit on latency or size"})
        return End(None, self._columns(0.0))

    def _constrain(self, trial: optuna.Trial, violations: dict[str, float]) -> None:
        for name, value in violations.items():
            trial.set_constraint(name, value)
        if violations:
            self.storage.set_trial_system_attr(
                trial._trial_id, CONSTRAINTS_ATTR, list(violations.values())
            )

    def _bar(self, latency: float | None, size: float) -> Bar:
        """What a recipe of these costs must reach to add to the front."""
        evaluator, front = self.evaluator, self.front
        reference = self.problem.reference(evaluator.baseline.accuracy)
        columns = [
            (objective, cost)
            for objective, cost in ((OBJECTIVES["latency"], latency), (OBJECTIVES["size"], size))
            if objective in self.objectives and cost is not None
        ]
        own = np.array([cost for _, cost in columns])
        costs = np.array([[objective.loss(m) for objective, _ in columns] for m in front])
        costs = costs.reshape(len(front), len(columns))
        accuracy = np.array([m.accuracy for m in front])
        cheaper = [m for m, theirs in zip(front, costs, strict=True) if (theirs <= own).all()]
        rival, least = "the least that counts", reference
        if cheaper:
            best = max(cheaper, key=lambda m: (m.accuracy, -(m.trial or 0)))
            rival, least = f"trial {best.trial}", best.accuracy
        # In the order they were found: that of the front changes when its models are timed, and of
        # two that a recipe differs from equally the first is compared with.
        found = sorted(front, key=lambda m: m.trial or 0)
        recipes = dict.fromkeys((EXACT, *(Recipe.from_dict(m.recipe) for m in found)))
        known = [evaluator.accuracy(recipe, evaluator.task.search) for recipe in recipes]
        return Bar(
            rival,
            worth(least, own, accuracy, costs, reference),
            [evaluation.outcome for evaluation in known],
        )

    def _standing(self) -> str:
        self._sync()
        base = self.evaluator.baseline
        # What users ask first: how much faster (or smaller) at no loss?
        name = "latency" if self.study.spec.scenario is not None else "size"
        field = OBJECTIVES[name].field
        as_good = [getattr(m, field) for m in self.finished if m.accuracy >= base.accuracy]
        best = f" · best {name} at no loss {min(as_good):.2f} of the base" if as_good else ""
        return f"front {len(self.front)}{best}"


def _files(recipe: Recipe, found: Measurement) -> dict[str, bytes]:
    """The artifacts of a front member: its recipe, and what each layer keeps."""
    text = json.dumps({**recipe.to_dict(), "sha256": recipe.hash}, indent=1, sort_keys=True) + "\n"
    names = list(next(iter(found.choices.values())))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["layer", *names])
    for layer, choices in found.choices.items():
        writer.writerow([layer, *(choices[name] for name in names)])
    return {"recipe.json": text.encode(), "layers.csv": table.getvalue().encode()}
