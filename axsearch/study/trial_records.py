"""Finished trials as a database holds them, read so that nothing is shown that was not measured.

Optuna lets anybody add trials to a study and set attributes on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from axsearch.approximations import together
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.store.attributes import RECOVERED_ATTR
from axsearch.store.records import damaged, read_record

KNOWN_OTHERWISE = {
    "trial", "recipe", "accuracy_tried", "holdout_accuracy", "latency_predicted", "recovered_from",
}  # fmt: skip
"""Fields of a measurement that are not kept with its trial."""


def read_measurement(
    where: str,
    trial: FrozenTrial,
    stored: Any,
    recipe: Recipe | None,
    holdout: float | None,
    fields: Sequence[str],
) -> Measurement:
    """The measurement of a finished trial.

    Args:
        where: names the trial in errors.
        trial: as Optuna has it, with the values that it was told.
        stored: what is kept as its measurement.
        recipe: that it names, None where there is no such recipe.
        holdout: its accuracy on the holdout split, None until that was opened.
        fields: of a measurement, those that Optuna was told.

    Raises:
        UsageError: these do not go together, or are not what a search writes.
    """
    if recipe is None:
        raise damaged(where, "it names no recipe of this database")
    if not isinstance(stored, dict) or stored.keys() & KNOWN_OTHERWISE:
        raise damaged(where, "it has no measurement")
    before = trial.user_attrs.get(RECOVERED_ATTR)
    if (before is None) != (recipe.recovery is None):
        raise damaged(where, "its recipe does not say whether its weights were trained")
    found = {
        "trial": trial.number,
        "recipe": recipe.to_dict(),
        "holdout_accuracy": holdout,
        "recovered_from": before,
    }
    measured = read_record(Measurement, {**stored, **found}, where)
    ours, told = [getattr(measured, field) for field in fields], trial.values or []
    if len(ours) != len(told) or any(
        a is None or not math.isclose(a, b) for a, b in zip(ours, told, strict=True)
    ):
        raise damaged(where, f"its {' and '.join(fields)} are not the values that Optuna was told")
    return measured


def check_choices(
    named: Callable[[int | None], str],
    measurements: Sequence[Measurement],
    recipes: Sequence[Recipe],
) -> list[Measurement]:
    """The same measurements, with the same names of choices for all layers of all trials.

    An older version knew fewer approximations, and left out what it did not know.

    Args:
        named: names a trial in errors.
        measurements: of one study's finished trials.
        recipes: theirs.

    Raises:
        UsageError: a trial's choices are not those that its recipe leaves of the base's.
    """
    pairs = list(zip(measurements, recipes, strict=True))
    base = next((m.choices for m, recipe in pairs if not recipe.sites), None)
    kinds = dict.fromkeys(n for m in measurements for kept in m.choices.values() for n in kept)
    found = []
    for measurement, recipe in pairs:
        # Until the base is measured, only what a recipe names can be compared.
        whole = measurement.choices if base is None else base
        choices = {layer: {**dict.fromkeys(kinds), **kept} for layer, kept in whole.items()}
        for site, name, choice in recipe.choices():
            place = choices.setdefault(site.place, {})
            place[name] = together(place.get(name), choice.level)
        if _given(measurement.choices) != _given(choices):
            raise damaged(
                named(measurement.trial), "its choices are not what its recipe leaves of the base"
            )
        found.append(measurement.model_copy(update={"choices": choices}))
    return found


def _given(choices: Mapping[str, Mapping[str, int | None]]) -> dict[str, dict[str, int]]:
    """What is said of each place; nothing is said of one that an older version did not know."""
    found = {
        place: {name: value for name, value in kept.items() if value is not None}
        for place, kept in choices.items()
    }
    return {place: kept for place, kept in found.items() if kept}
