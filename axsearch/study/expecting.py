"""What the models of a study are expected to lose on new data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Engine

from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.divergence import divergence_of_predictions, divergence_with_error
from axsearch.statistics.expectation import Expected, expected_drops
from axsearch.statistics.measurement import Measurement
from axsearch.store.studies import evaluated_recipes
from axsearch.study.evaluations import served_base, stored_evaluations
from axsearch.study.spec import StudySpec

OTHERS = 64
"""Models beside the front that show how drop and divergence go together, even in long studies."""

SERVED = "the base as it is served"
"""In place of a recipe's hash."""


def expectations(
    engine: Engine,
    spec: StudySpec,
    study_id: int,
    base: Measurement,
    members: Sequence[Measurement],
) -> dict[int, Expected]:
    """What the base and each of these models are expected to lose, by trial.

    The base loses nothing, or, where it is served otherwise than trials are evaluated, what that
    costs. Empty where the answers to single examples are not stored, as in studies of older
    versions.

    Args:
        engine: an open database.
        spec: of the study.
        study_id: of the study.
        base: its baseline.
        members: models of it, the base being left out.
    """
    recipes = {
        m.trial: Recipe.from_dict(m.recipe).hash
        for m in members
        if m.trial is not None and m.recipe != base.recipe
    }
    others = _some(evaluated_recipes(engine, study_id))
    trained = {*evaluated_recipes(engine, study_id, trained=True)}
    others += _some(sorted(trained))
    known = stored_evaluations(engine, spec, "search", {EXACT.hash, *recipes.values(), *others})
    exact = known.pop(EXACT.hash, None)
    if (served := served_base(engine, spec, "search")) is not None:
        known[SERVED] = served
    losses = {h: one.losses for h, one in known.items() if one.losses is not None}
    if exact is None or exact.losses is None or not losses.keys() >= {*recipes.values()}:
        return {}
    hashes = sorted(losses)
    found = expected_drops(
        [known[h].outcome for h in hashes],
        exact.outcome,
        [
            divergence_of_predictions(known[h].outcome, exact.outcome)
            if exact.outcome.statistic in ("pearson", "spearman")
            else divergence_with_error(losses[h], exact.losses)
            for h in hashes
        ],
        [h in trained for h in hashes],
    )
    by_recipe = dict(zip(hashes, found, strict=True))
    own = by_recipe.get(SERVED, Expected(0.0, 0.0, 0.0, len(exact.outcome)))
    return {base.trial or 0: own, **{t: by_recipe[h] for t, h in recipes.items()}}


def _some(recipes: list[str]) -> list[str]:
    """At most :data:`OTHERS` of these, evenly: of all sizes where they are sorted by size."""
    return recipes[:: math.ceil(len(recipes) / OTHERS) or 1]
