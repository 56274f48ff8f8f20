"""The stored evaluations of a study's models: of trials, polished, and as they are served."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import Engine

from axsearch.space.recipe import EXACT
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.store.models import CLOSED_FORM
from axsearch.store.queries import (
    Evaluation,
    EvaluationKey,
    load_accuracies,
    load_evaluations,
)
from axsearch.study.spec import StudySpec


def stored_evaluations(
    engine: Engine, spec: StudySpec, split: str, recipes: Collection[str]
) -> dict[str, Evaluation]:
    """The evaluations of a study's models on a split, by recipe hash.

    Of a model that is shown with other weights than those of its trial, see :func:`shown_weights`,
    only those with these weights are returned.
    """
    key = _key(spec, split)
    found: dict[str, Evaluation] = {}
    left = set(recipes)
    for weights, known in _shown(engine, spec, recipes).items():
        found |= load_evaluations(engine, replace(key, weights=weights), known)
        left -= known.keys()
    found |= load_evaluations(engine, key, left)
    if key.weights != CLOSED_FORM and EXACT.hash in recipes:  # the base is nobody's weights
        base = replace(key, weights=CLOSED_FORM)
        found |= load_evaluations(engine, base, [EXACT.hash])
    return found


def shown_weights(spec: StudySpec) -> tuple[str, ...]:
    """The keys of weights that a study shows of a model if it was evaluated with them.

    The first that it was evaluated with counts: as the study's runtime runs the polished weights,
    polished, as the runtime runs those of the trial.
    """
    polished = [spec.polished] if spec.polished else []
    found = [key for one in polished for key in (*_served(spec, one), one)]
    return (*found, *_served(spec, spec.weights))


def _served(spec: StudySpec, weights: str) -> list[str]:
    """The key of weights as the study's runtime runs them, if that is not how trials are."""
    if spec.scenario is None or not spec.served:
        return []
    return [spec.scenario.served(weights, spec.splits["calibration"])]


def shown_accuracies(
    engine: Engine, spec: StudySpec, recipes: Collection[str]
) -> dict[str, Estimate]:
    """The accuracies on the search split that models have now, where not those of their trials."""
    shown = _shown(engine, spec, recipes).values()
    return {recipe: one for known in shown for recipe, one in known.items()}


def polished_accuracies(
    engine: Engine, spec: StudySpec, recipes: Collection[str]
) -> dict[str, Estimate]:
    """The accuracies on the search split of a study's polished models, by recipe hash."""
    if not spec.polished:
        return {}
    return load_accuracies(engine, replace(_key(spec, "search"), weights=spec.polished), recipes)


def served_accuracies(
    engine: Engine, spec: StudySpec, recipes: Collection[str]
) -> dict[str, Estimate]:
    """The same of the models as the study's runtime runs them, with the weights that they have now.

    The base is among them, if it is asked for.
    """
    shown = _shown(engine, spec, recipes)
    found = {
        recipe: one
        for key, known in shown.items()
        if key != spec.polished
        for recipe, one in known.items()
    }
    base = served_base(engine, spec, "search") if EXACT.hash in recipes else None
    if base is not None:
        found[EXACT.hash] = Estimate(base.value, base.low, base.high)
    return found


def served_base(engine: Engine, spec: StudySpec, split: str) -> Evaluation | None:
    """The base on a split as the study's runtime runs it; None where trials are evaluated so."""
    for key in _served(spec, CLOSED_FORM):
        of = replace(_key(spec, split), weights=key)
        return load_evaluations(engine, of, [EXACT.hash]).get(EXACT.hash)
    return None


def _shown(
    engine: Engine, spec: StudySpec, recipes: Collection[str]
) -> dict[str, dict[str, Estimate]]:
    """By the key of the weights with which models are shown, their accuracies by recipe hash.

    The base is the user's model in every study, whatever its runtime is.
    """
    left = {recipe for recipe in recipes if recipe != EXACT.hash}
    found = {}
    for weights in shown_weights(spec):
        of = replace(_key(spec, "search"), weights=weights)
        found[weights] = load_accuracies(engine, of, left)
        left -= found[weights].keys()
    return found


def with_accuracy(measurement: Measurement, shown: Estimate | None) -> Measurement:
    """A measurement with the accuracy that its model has now, if it is not that of its trial."""
    if shown is None:
        return measurement
    return measurement.model_copy(
        update={
            "accuracy": shown.value,
            "accuracy_low": shown.low,
            "accuracy_high": shown.high,
            "accuracy_tried": measurement.accuracy,
        }
    )


def _key(spec: StudySpec, split: str) -> EvaluationKey:
    return EvaluationKey(
        spec.model_fingerprint,
        spec.splits["calibration"],
        spec.splits[split],
        spec.dtype if split == "search" else "float32",
        spec.metric,
        spec.weights,
    )
