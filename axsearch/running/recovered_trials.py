"""Recovered models as trials of the study of the models that they were made from."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from axsearch.evaluation.evaluator import Evaluator
from axsearch.progress import console
from axsearch.running.objective import columns_of, files_of
from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.divergence import divergence_of_losses
from axsearch.statistics.measurement import Measurement
from axsearch.store.attributes import (
    CONSTRAINTS_ATTR,
    DIVERGENCE_ATTR,
    MEASUREMENT_ATTR,
    RECIPE_ATTR,
    RECOVERED_ATTR,
    WORKER_ATTR,
)
from axsearch.study.spec import OBJECTIVES, limits
from axsearch.study.study import Study
from axsearch.study.trial_records import KNOWN_OTHERWISE
from axsearch.system.liveness import worker_name


@dataclass(frozen=True)
class Recovered:
    """A model that was trained further.

    Attributes:
        trial: of the recovered model.
        before: the model as it was cut.
        after: the recovered model.
        seconds: of its training; 0 where the model was trained before.
        rate: the learning rate of its training, None of a soup.
    """

    trial: int
    before: Measurement
    after: Measurement
    seconds: float
    rate: float | None = None


def add_recovered(
    study: Study, evaluator: Evaluator, before: Measurement, recipe: Recipe, seconds: float
) -> Recovered:
    """Evaluate a recovered model and make it a trial, where it is none yet.

    Args:
        study: of the trial; what was read of it is forgotten.
        evaluator: of its task.
        before: the model that was trained.
        recipe: of the recovered model, whose weights are kept.
        seconds: of its training.
    """
    assert before.trial is not None
    found = evaluator.accuracy(recipe, evaluator.task.search)
    source = study.frozen([before.trial])[before.trial]
    given = source.user_attrs[MEASUREMENT_ATTR]
    after = Measurement.model_validate(
        {
            **given,
            "recipe": recipe.to_dict(),
            "accuracy": found.value,
            "accuracy_low": found.low,
            "accuracy_high": found.high,
        }
    )
    stored = after.model_dump(mode="json", exclude=KNOWN_OTHERWISE)
    losses, exact = evaluator.losses(recipe), evaluator.losses(EXACT)
    excess = limits(study.spec, study.baseline.accuracy, after)
    feasible = all(value <= 1e-12 for value in excess.values())
    objectives = study.spec.objectives
    template = optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        params=source.params,
        distributions=source.distributions,
        values=[OBJECTIVES[name].value(after) for name in objectives],
        user_attrs={
            RECIPE_ATTR: recipe.hash,
            RECOVERED_ATTR: before.trial,
            MEASUREMENT_ATTR: stored,
            DIVERGENCE_ATTR: divergence_of_losses(losses, exact),
        },
        system_attrs={WORKER_ATTR: worker_name()}
        | ({CONSTRAINTS_ATTR: list(excess.values())} if excess else {}),
    )
    columns = {
        **columns_of(after, objectives, feasible=feasible),
        "seconds": seconds,
        "worker": worker_name(),
    }
    files = files_of(recipe, after) if feasible else {}
    number, new = study.database.storage.add_recovered(study.id, recipe, template, columns, files)
    study.refresh()
    words = "recovered" if new else "was recovered before"
    base, metric = study.baseline.accuracy, study.spec.metric
    console.print(
        f"Trial {before.trial} {words} as trial {number}: {metric} {after.accuracy:.4f} "
        f"({before.accuracy:.4f} as cut, {base:.4f} of the base), {seconds:.0f} s."
    )
    return Recovered(number, before, study.trial(number), seconds)
