"""The objective of a study's trials: from a genome to a recipe, and from that to its values."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from axsearch.evaluation.stages import DominatedError, Threshold, worth
from axsearch.running.standing import Standing
from axsearch.running.trial_loop import End
from axsearch.space.problem import Genomes, Problem
from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.divergence import divergence_of_losses
from axsearch.statistics.measurement import Measurement
from axsearch.store.attributes import (
    CONSTRAINTS_ATTR,
    DIVERGENCE_ATTR,
    MEAN_LOSS_ATTR,
    MEASUREMENT_ATTR,
    NOT_WORSE_ATTR,
    STOPPED_ATTR,
)
from axsearch.store.optuna_internals import id_of_trial
from axsearch.study.spec import OBJECTIVES, limits
from axsearch.study.study import Study
from axsearch.study.trial_records import KNOWN_OTHERWISE

if TYPE_CHECKING:
    from axsearch.evaluation.evaluator import Evaluator


class RecipeObjective:
    """Evaluates the recipes of a study's trials, see :class:`ObjectiveFunction`.

    Attributes:
        seconds: the time of the evaluator in the last trial.

    Args:
        study: of the trials.
        evaluator: of the study's task.
        problem: the study's search space, and what is known of costs before a trial.
        standing: the finished models of the study, to which a recipe must add.
        staged: whether the evaluation of a recipe that confidently adds next to nothing is stopped.
        limited: whether a recipe that is known to break a limit on latency or size is not
            evaluated. A greedy search that begins at the base must pass through models above a
            limit.
        worker: the name of this worker.
    """

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        problem: Problem,
        standing: Standing,
        *,
        staged: bool,
        limited: bool,
        worker: str,
    ) -> None:
        self.seconds = 0.0
        self._study = study
        self._evaluator = evaluator
        self._problem = problem
        self._standing = standing
        self._staged = staged
        self._limited = limited
        self._worker = worker
        self._objectives = [OBJECTIVES[name] for name in study.spec.objectives]

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """Suggest a genome."""
        space = self._problem.space
        genome = {
            name: trial.suggest_int(name, distribution.low, distribution.high)
            for name, distribution in space.distributions().items()
        }
        return space.recipe(genome)

    def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
        """Evaluate a recipe; raises NonFiniteError where its model's numbers are not finite."""
        # Not at the top: it imports transformers, which is loaded wherever there is an evaluator.
        from axsearch.evaluation.accuracy import NonFiniteError

        self.seconds = 0.0
        started = time.perf_counter()
        genome = self._problem.array(trial.params)[None]
        if recipe != EXACT and self._limited and not self._problem.feasible(genome)[0]:
            return self._above_a_limit(trial, genome)
        self._standing.refresh()
        # A recipe that loses nothing has the base's accuracy: there is nothing to stop for.
        threshold = self.threshold if self._staged and recipe.lossy != EXACT else None
        began = time.perf_counter()
        try:
            found = self._evaluator.measure(recipe, trial=trial.number, threshold=threshold)
            losses = self._evaluator.losses(recipe)
        except DominatedError as stop:
            seen = {"examples": stop.seen, "dominated_by": stop.rival, **stop.estimate._asdict()}
            trial.set_user_attr(STOPPED_ATTR, seen)
            return End(None, self._columns(time.perf_counter() - started))
        except NonFiniteError:
            trial.set_user_attr(STOPPED_ATTR, {"reason": "numbers that are not finite"})
            raise
        finally:
            self.seconds = time.perf_counter() - began
        base, base_losses = self._evaluator.baseline, self._evaluator.losses(EXACT)
        trial.set_user_attr(
            MEASUREMENT_ATTR,
            found.model_dump(mode="json", exclude=KNOWN_OTHERWISE),
        )
        trial.set_user_attr(MEAN_LOSS_ATTR, float(losses.mean(dtype=np.float64)))
        trial.set_user_attr(NOT_WORSE_ATTR, float((losses <= base_losses).mean()))
        trial.set_user_attr(DIVERGENCE_ATTR, divergence_of_losses(losses, base_losses))
        excess = limits(self._study.spec, base.accuracy, found)
        self._constrain(trial, excess)
        feasible = all(value <= 1e-12 for value in excess.values())
        return End(
            tuple(objective.value(found) for objective in self._objectives),
            self._columns(time.perf_counter() - started, found, feasible),
            files_of(recipe, found) if feasible and self._standing.is_new(found) else {},
        )

    def threshold(self, latency: float | None, size: float) -> Threshold:
        """The threshold that a recipe of these costs must reach to add to the front.

        Args:
            latency: as a ratio to the base; None where it is not known.
            size: as a ratio to the base.
        """
        evaluator, front = self._evaluator, self._standing.front
        reference = self._problem.reference(evaluator.baseline.accuracy)
        columns = [
            (objective, cost)
            for objective, cost in ((OBJECTIVES["latency"], latency), (OBJECTIVES["size"], size))
            if objective in self._objectives and cost is not None
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
        # In the order they were found: the order of the front changes when its models are timed,
        # and of two equally similar ones the first is compared with.
        found = sorted(front, key=lambda m: m.trial or 0)
        recipes = dict.fromkeys((EXACT, *(Recipe.from_dict(m.recipe) for m in found)))
        known = [evaluator.accuracy(recipe, evaluator.task.search) for recipe in recipes]
        return Threshold(
            rival,
            worth(least, own, accuracy, costs, reference),
            [evaluation.outcome for evaluation in known],
        )

    def _above_a_limit(self, trial: optuna.Trial, genome: Genomes) -> End:
        """End a trial that is known to break a limit before its model is made."""
        excess = self._problem.excess(genome)
        self._constrain(trial, {name: float(over[0]) for name, over in excess.items()})
        trial.set_user_attr(STOPPED_ATTR, {"reason": "above a limit on latency or size"})
        return End(None, self._columns(0.0))

    def _constrain(self, trial: optuna.Trial, violations: dict[str, float]) -> None:
        for name, value in violations.items():
            trial.set_constraint(name, value)
        if violations:
            self._study.database.storage.set_trial_system_attr(
                id_of_trial(trial), CONSTRAINTS_ATTR, list(violations.values())
            )

    def _columns(
        self, seconds: float, found: Measurement | None = None, feasible: bool = False
    ) -> dict[str, Any]:
        columns: dict[str, Any] = {"seconds": seconds, "worker": self._worker}
        if found is None:
            return columns
        return {**columns, **columns_of(found, self._study.spec.objectives, feasible=feasible)}


def columns_of(
    found: Measurement, objectives: Collection[str], *, feasible: bool
) -> dict[str, Any]:
    """What ``ax_trials`` has of a measured model; ``objectives`` are the study's."""
    return {
        "feasible": feasible,
        "accuracy": found.accuracy,
        "accuracy_low": found.accuracy_low,
        "accuracy_high": found.accuracy_high,
        "latency": found.objective_latency if "latency" in objectives else None,
        "size": found.size_ratio if "size" in objectives else None,
        "latency_ratio": found.latency_ratio,
        "size_ratio": found.size_ratio,
        "size_bytes": found.size_bytes,
        "parameters": found.parameters,
    }


def files_of(recipe: Recipe, found: Measurement) -> dict[str, bytes]:
    """The artifacts of a front member: its recipe, and a table of what each layer keeps."""
    text = json.dumps({**recipe.to_dict(), "sha256": recipe.hash}, indent=1, sort_keys=True) + "\n"
    names = list(dict.fromkeys(name for kept in found.choices.values() for name in kept))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["layer", *names])
    for layer, choices in found.choices.items():
        writer.writerow([layer, *(choices.get(name) for name in names)])
    return {"recipe.json": text.encode(), "layers.csv": table.getvalue().encode()}
