"""One worker: the loop that runs a study's trials."""

from __future__ import annotations

import time
import warnings
from typing import NoReturn

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from axsearch.calibration.damage import divergence_of_losses
from axsearch.calibration.problem import Genomes, Problem
from axsearch.calibration.warm_start import warm_start
from axsearch.dashboard import annotate
from axsearch.errors import AxsearchError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import EXACT, Evaluator, machine_name
from axsearch.evaluation.stages import Bar, DominatedError, worth
from axsearch.interrupts import Interrupts
from axsearch.measurement import Measurement
from axsearch.progress import console, progress_bar
from axsearch.recipe import Recipe
from axsearch.samplers import build_sampler, finished, own_approximations
from axsearch.store.queries import save_recipe
from axsearch.study import (
    DIVERGENCE_ATTR,
    INTERRUPTED_ATTR,
    MEAN_LOSS_ATTR,
    MEASUREMENT_ATTR,
    NOT_WORSE_ATTR,
    OBJECTIVES,
    RECIPE_ATTR,
    STOPPED_ATTR,
    Study,
    front_of,
    limits,
)

CONSTRAINTS_ATTR = "constraints"
"""Where Optuna kept constraints before version 5; its dashboard reads only this."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

MAX_FAILURES = 5


class Worker:
    """One process's work on a study: it asks, measures and tells until enough trials are done.

    Args:
        study: to work on.
        evaluator: of the study's task, with its latency table.
        problem: what the sampler is told.
        sampler: its name.
        staged: whether to stop evaluating a recipe that confidently adds next to nothing.
    """

    def __init__(
        self, study: Study, evaluator: Evaluator, problem: Problem, sampler: str, staged: bool
    ) -> None:
        self.study = study
        self.evaluator = evaluator
        self.problem = problem
        self.space = problem.space
        self.staged = staged
        # A greedy that begins at the base must go through models above a limit.
        self.greedy = own_approximations(sampler) is not None
        self.warm_start = [self.space.exact()] if self.greedy else warm_start(problem)
        self.objectives = [OBJECTIVES[name] for name in study.spec.objectives]
        storage = study.database.storage
        self.optuna = optuna.create_study(
            study_name=study.name,
            storage=storage,
            directions=[StudyDirection[o.direction.upper()] for o in self.objectives],
            load_if_exists=True,
        )
        names: list[str] = [o.field for o in self.objectives]
        with warnings.catch_warnings():  # metric names are "experimental" since Optuna 3.2
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.optuna.set_metric_names(names)
        self.finished = list(study.measurements)
        self.stopped = len(self.optuna.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
        self._measured: dict[int, Measurement] = {}
        self._front: list[Measurement] | None = None
        self._evaluating = self._overhead = 0.0
        self.optuna.sampler = build_sampler(sampler, problem, study.spec.seed)

    def until(self, wanted: int) -> None:
        """Run trials until ``wanted`` are finished, the base among them; then time the front."""
        try:
            if self._missing(wanted):
                self._run(wanted)
            else:
                console.print(f"Study {self.study.name!r} already has {self._count()} trials.")
            self._time_front()
        finally:
            if self._has_base():
                self.study.refresh()
                annotate(self.study)

    def _run(self, wanted: int) -> None:
        if self.space.compensation != "none":
            _ = self.evaluator.moments  # with its own progress bar, not in the midst of a trial
        self._enqueue(self._missing(wanted))
        began, failures, done = time.monotonic(), 0, 0
        with progress_bar() as progress, Interrupts() as self._interrupts:
            bar = progress.add_task("Searching", total=wanted, completed=self._count())
            while self._missing(wanted):
                if finished(self.optuna.sampler, self.optuna):
                    console.print(f"The sampler has made all its steps: {self._count()} trials.")
                    break
                before, started = self._count(), time.perf_counter()
                self._evaluating = 0.0
                self.optuna.optimize(
                    self._objective, n_trials=1, catch=(NonFiniteError,), callbacks=[self._keep]
                )
                self._overhead += time.perf_counter() - started - self._evaluating
                done += 1
                self._interrupts.check()
                if self._count() == before:
                    failures += 1
                    if failures == MAX_FAILURES:
                        raise AxsearchError(
                            f"{MAX_FAILURES} trials in a row gave numbers that are not finite; "
                            "check the base model and run the same command to go on."
                        )
                    if not self._has_base():  # no study ends without its baseline
                        self.optuna.enqueue_trial(self.space.exact())
                    continue
                failures = 0
                standing = self._standing()
                progress.update(bar, advance=1, description=f"Searching · {standing}")
                if not console.is_terminal:
                    spent = f"{time.monotonic() - began:.0f} s"
                    console.print(f"trial {self._count()}/{wanted} · {spent} · {standing}")
        if done:
            console.print(
                f"{done} trials in {time.monotonic() - began:.0f} s, of which sampler and storage "
                f"took {self._overhead / done * 1e3:.0f} ms a trial; {self.stopped} of all trials "
                "were stopped: above a limit, or confidently adding next to nothing.",
                style="dim",
            )

    def _time_front(self) -> None:
        """Time the real models of the front, each in turn with the base."""
        if self.evaluator.scenario is None or self.study.spec.machine != machine_name():
            return
        with progress_bar() as progress:
            for member in progress.track(self.front, description="Timing the front"):
                self.evaluator.latency(Recipe.from_dict(member.recipe))

    @property
    def front(self) -> list[Measurement]:
        """The front so far, kept up to date trial by trial."""
        if self._front is None:
            self._front = self._front_of(self.finished)
        return self._front

    def _front_of(self, measurements: list[Measurement]) -> list[Measurement]:
        return front_of(self.study.spec, self.evaluator.base, measurements)

    def _count(self) -> int:
        return len(self.finished) + self.stopped

    def _missing(self, wanted: int) -> int:
        # The base's own trial may have been killed: without it a study has no baseline.
        return max(wanted - self._count(), 0 if self._has_base() else 1)

    def _has_base(self) -> bool:
        return any(m.recipe == EXACT.to_dict() for m in self.finished)

    def _keep(self, _: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state == TrialState.COMPLETE:
            measured = self._measured[trial.number]
            self.finished.append(measured)
            if self._front is not None:
                self._front = self._front_of([*self._front, measured])
        elif trial.state == TrialState.PRUNED:
            self.stopped += 1
        elif not self._interrupts.stopped:
            console.print(f"Trial {trial.number} failed: its model's logits are not finite.")

    def _enqueue(self, room: int) -> None:
        # A running trial may be a killed one; one that is alive costs nothing to repeat, since
        # its results are read from the store.
        states = (*FINISHED, TrialState.WAITING)
        begun = self.optuna.get_trials(deepcopy=False, states=states)
        tried = [t.params or t.system_attrs.get("fixed_params", {}) for t in begun]
        for genome in [g for g in self.warm_start if g not in tried][:room]:
            self.optuna.enqueue_trial(genome)

    def _objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        try:
            with self._interrupts.at_once():
                return self._evaluate(trial)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED_ATTR, True)
            raise

    def _evaluate(self, trial: optuna.Trial) -> tuple[float, ...]:
        genome = {
            name: trial.suggest_int(name, distribution.low, distribution.high)
            for name, distribution in self.space.distributions().items()
        }
        recipe = self.space.recipe(genome)
        trial.set_user_attr(RECIPE_ATTR, recipe.hash)  # first: other workers see what runs
        if recipe != EXACT and not self.greedy:
            self._check_costs(trial, self.problem.array(genome)[None])
        started = time.perf_counter()
        try:
            staged = self.staged and recipe != EXACT
            measurement = self.evaluator.measure(
                recipe, trial=trial.number, bar=self._bar if staged else None
            )
            losses = self.evaluator.losses(recipe)
        except DominatedError as stop:
            seen = {"examples": stop.seen, "dominated_by": stop.rival, **stop.estimate._asdict()}
            self._stop(trial, seen)
        except NonFiniteError:
            trial.set_user_attr(STOPPED_ATTR, {"reason": "numbers that are not finite"})
            raise
        finally:
            self._evaluating = time.perf_counter() - started
        self._measured = {trial.number: measurement}
        base_accuracy, base_losses = self.evaluator.base.accuracy, self.evaluator.losses(EXACT)
        save_recipe(self.study.database.engine, recipe)
        trial.set_user_attr(
            MEASUREMENT_ATTR,
            measurement.model_dump(mode="json", exclude={"trial", "recipe", "holdout_accuracy"}),
        )
        trial.set_user_attr(MEAN_LOSS_ATTR, float(losses.mean(dtype=np.float64)))
        trial.set_user_attr(NOT_WORSE_ATTR, float((losses <= base_losses).mean()))
        trial.set_user_attr(DIVERGENCE_ATTR, divergence_of_losses(losses, base_losses))
        self._constrain(trial, limits(self.study.spec, base_accuracy, measurement))
        return tuple(objective.value(measurement) for objective in self.objectives)

    def _check_costs(self, trial: optuna.Trial, genome: Genomes) -> None:
        """Stop a trial that is known to break a limit before its model is made."""
        if not self.problem.feasible(genome)[0]:
            excess = self.problem.excess(genome)
            self._constrain(trial, {name: float(over[0]) for name, over in excess.items()})
            self._stop(trial, {"reason": "above a limit on latency or size"})

    def _constrain(self, trial: optuna.Trial, violations: dict[str, float]) -> None:
        for name, value in violations.items():
            trial.set_constraint(name, value)
        if violations:
            self.study.database.storage.set_trial_system_attr(
                trial._trial_id, CONSTRAINTS_ATTR, list(violations.values())
            )

    def _stop(self, trial: optuna.Trial, seen: dict[str, object]) -> NoReturn:
        trial.set_user_attr(STOPPED_ATTR, seen)
        raise optuna.TrialPruned

    def _bar(self, latency: float | None, size: float) -> Bar:
        """What a recipe of these costs must reach to add to the front."""
        evaluator, front = self.evaluator, self.front
        reference = self.problem.reference(evaluator.base.accuracy)
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
        recipes = dict.fromkeys((EXACT, *(Recipe.from_dict(m.recipe) for m in front)))
        known = [evaluator.accuracy(recipe, evaluator.task.search) for recipe in recipes]
        return Bar(
            rival,
            worth(least, own, accuracy, costs, reference),
            [evaluation.outcome for evaluation in known],
        )

    def _standing(self) -> str:
        base = self.evaluator.base
        # What users ask first: how much faster (or smaller) at no loss?
        name = "latency" if self.study.spec.scenario is not None else "size"
        field = OBJECTIVES[name].field
        as_good = [getattr(m, field) for m in self.finished if m.accuracy >= base.accuracy]
        best = f" · best {name} at no loss {min(as_good):.2f} of the base" if as_good else ""
        return f"front {len(self.front)}{best}"
