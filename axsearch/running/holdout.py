"""Open the holdout split for the models that a study chose."""

from __future__ import annotations

from dataclasses import replace

from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.latency import Latency
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.evaluation.serving import served_accuracy
from axsearch.progress import steps
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import Scenario
from axsearch.study.baselines import baselines
from axsearch.study.study import Study


def evaluate_front(study: Study, *, model: str | None = None, data: str | None = None) -> None:
    """Evaluate the base and the front on the holdout split; stored results are not computed again.

    ``model`` and ``data`` say where those lie on this machine, if elsewhere than where the study
    began. Raises UsageError where they are not what they were, or the database can only be read.
    """
    recipes = [EXACT, *(Recipe.from_dict(m.recipe) for m in study.front())]
    known = study.outcomes(recipes, "holdout")
    missing = [recipe for recipe in recipes if recipe.hash not in known]
    unopened = [one for one in baselines(study) if one.measurement.holdout_accuracy is None]
    if missing or unopened:
        study.database.check_writable()
        with steps(1 + len(missing) + len(unopened)) as begin:
            begin("Loading model and data")
            task = load_task(study.spec, model=model, data=data)
            evaluators = shown_evaluators(study, task, [EXACT, *missing])
            served = study.served([recipe.hash for recipe in missing])
            for recipe in missing:
                begin("Opening the holdout split")
                own = evaluators[recipe.hash]
                if recipe.hash in served:
                    _serve(study, own, recipe, study.spec.scenario)
                else:
                    own.accuracy(recipe, task.holdout)
            for one in unopened:
                begin("Opening the holdout split")
                scenario = study.spec.scenario
                assert scenario is not None
                variant = replace(
                    scenario, runtime=one.timed.runtime, precision=one.timed.precision
                )
                _serve(study, evaluators[EXACT.hash], EXACT, variant)
    study.refresh()


def _serve(study: Study, evaluator: Evaluator, recipe: Recipe, scenario: Scenario | None) -> None:
    assert scenario is not None
    task, weights = evaluator.task, evaluator.weights
    served_accuracy(study.database.engine, task, scenario, recipe, task.holdout, weights)


def holdout_speed(study: Study, trial: int, *, pairs: int = 7, batches: int = 8) -> Latency:
    """Time a trial's model on the holdout examples at their own lengths, paired with the base.

    Takes the batch size, threads and device of the study's scenario; ``batches`` of them are
    taken at even steps of the examples sorted by length. Raises UsageError where there is no such
    trial, or the study's model or data have changed.
    """
    recipe = Recipe.from_dict(study.trial(trial).recipe)
    own = study.spec.scenario or Scenario(device=study.spec.device)
    scenario = replace(own, sequence_length=None)
    with steps(2) as begin:
        begin("Loading model and data")
        task = load_task(study.spec)
        evaluator = Evaluator(task, study.database.engine, scenario, study.spec.device)
        begin("Timing on the holdout split")
        measured = evaluator.latency(recipe, split=task.holdout, batches=batches, pairs=pairs)
    assert measured is not None
    return measured
