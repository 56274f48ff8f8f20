"""The stored evaluations of a study's models: of trials, and of those that were polished."""

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

    Of a model that was polished only those with its polished weights are returned.
    """
    key = _key(spec, split)
    polished = polished_accuracies(engine, spec, recipes)
    found = load_evaluations(engine, key, [one for one in recipes if one not in polished])
    if polished:
        found |= load_evaluations(engine, replace(key, weights=spec.polished), polished)
    if key.weights != CLOSED_FORM and EXACT.hash in recipes:  # the base is nobody's weights
        base = replace(key, weights=CLOSED_FORM)
        found |= load_evaluations(engine, base, [EXACT.hash])
    return found


def polished_accuracies(
    engine: Engine, spec: StudySpec, recipes: Collection[str]
) -> dict[str, Estimate]:
    """The accuracies on the search split of a study's polished models, by recipe hash."""
    if not spec.polished:
        return {}
    return load_accuracies(engine, replace(_key(spec, "search"), weights=spec.polished), recipes)


def with_accuracy(measurement: Measurement, polished: Estimate | None) -> Measurement:
    """A measurement with the accuracy of its polished model, if there is one."""
    if polished is None:
        return measurement
    return measurement.model_copy(
        update={
            "accuracy": polished.value,
            "accuracy_low": polished.low,
            "accuracy_high": polished.high,
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
