"""One worker: the loop that runs a study's trials."""

from __future__ import annotations

import time
import warnings

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from axsearch.calibration.importance import Importance
from axsearch.calibration.ladder import ladder
from axsearch.dashboard import annotate
from axsearch.errors import AxsearchError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.evaluator import EXACT, Evaluator
from axsearch.interrupts import Interrupts
from axsearch.measurement import Measurement
from axsearch.progress import console, progress_bar
from axsearch.samplers import build_sampler
from axsearch.space import SearchSpace
from axsearch.store.queries import save_recipe
from axsearch.study import MEASUREMENT_ATTR, OBJECTIVES, RECIPE_ATTR, Study, front_of, limits

MAX_FAILURES = 5


class Worker:
    """One process's work on a study: it asks, measures and tells until enough trials are done."""

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        space: SearchSpace,
        importance: Importance,
        sampler: str,
    ) -> None:
        self.study = study
        self.evaluator = evaluator
        self.space = space
        self.warm_start = ladder(space, importance)
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
        self._measured: dict[int, Measurement] = {}
        # A resumed study must not draw again what it drew before it was stopped.
        begun = len(self.optuna.get_trials(deepcopy=False))
        self.optuna.sampler = build_sampler(sampler, study.spec.seed + begun)

    def until(self, wanted: int) -> None:
        """Run trials until ``wanted`` are complete, the base among them."""
        try:
            if self._missing(wanted):
                self._run(wanted)
            else:
                console.print(f"Study {self.study.name!r} already has {len(self.finished)} trials.")
        finally:
            if self._has_base():
                self.study.refresh()
                annotate(self.study)

    def _run(self, wanted: int) -> None:
        if self.space.compensation != "none":
            _ = self.evaluator.moments  # with its own progress bar, not in the midst of a trial
        self._enqueue(self._missing(wanted))
        started, failures = time.monotonic(), 0
        with progress_bar() as progress, Interrupts() as self._interrupts:
            bar = progress.add_task("Searching", total=wanted, completed=len(self.finished))
            while self._missing(wanted):
                done = len(self.finished)
                self.optuna.optimize(
                    self._objective, n_trials=1, catch=(NonFiniteError,), callbacks=[self._keep]
                )
                self._interrupts.check()
                if len(self.finished) == done:
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
                    spent = f"{time.monotonic() - started:.0f} s"
                    console.print(f"trial {done + 1}/{wanted} · {spent} · {standing}")

    def _missing(self, wanted: int) -> int:
        # The base's own trial may have been killed: without it a study has no baseline.
        return max(wanted - len(self.finished), 0 if self._has_base() else 1)

    def _has_base(self) -> bool:
        return any(m.recipe == EXACT.to_dict() for m in self.finished)

    def _keep(self, _: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state == TrialState.COMPLETE:
            self.finished.append(self._measured[trial.number])
        elif not self._interrupts.stopped:
            console.print(f"Trial {trial.number} failed: its model's logits are not finite.")

    def _enqueue(self, room: int) -> None:
        # A running trial may be a killed one; one that is alive costs nothing to repeat, since
        # its results are read from the store.
        states = (TrialState.COMPLETE, TrialState.WAITING)
        begun = self.optuna.get_trials(deepcopy=False, states=states)
        tried = [t.params or t.system_attrs.get("fixed_params", {}) for t in begun]
        for genome in [g for g in self.warm_start if g not in tried][:room]:
            self.optuna.enqueue_trial(genome)

    def _objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        with self._interrupts.at_once():
            return self._evaluate(trial)

    def _evaluate(self, trial: optuna.Trial) -> tuple[float, ...]:
        genome = {
            name: trial.suggest_int(name, distribution.low, distribution.high)
            for name, distribution in self.space.distributions().items()
        }
        recipe = self.space.recipe(genome)
        measurement = self.evaluator.measure(recipe, trial=trial.number)
        self._measured = {trial.number: measurement}
        base_accuracy = self.evaluator.base.accuracy
        save_recipe(self.study.database.engine, recipe)
        trial.set_user_attr(RECIPE_ATTR, recipe.hash)
        trial.set_user_attr(
            MEASUREMENT_ATTR,
            measurement.model_dump(mode="json", exclude={"trial", "recipe", "holdout_accuracy"}),
        )
        for name, value in limits(self.study.spec, base_accuracy, measurement).items():
            trial.set_constraint(name, value)
        return tuple(objective.value(measurement) for objective in self.objectives)

    def _standing(self) -> str:
        base = self.evaluator.base
        front = front_of(self.study.spec, base, self.finished)
        # What users ask first: how much faster (or smaller) at no loss?
        name = "latency" if self.study.spec.scenario is not None else "size"
        field = OBJECTIVES[name].field
        as_good = [getattr(m, field) for m in self.finished if m.accuracy >= base.accuracy]
        best = f" · best {name} at no loss {min(as_good):.2f} of the base" if as_good else ""
        return f"front {len(front)}{best}"
