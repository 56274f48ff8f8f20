"""Results that stand with a recipe that they are not of, which `axsearch doctor` looks for.

Version 0.1 ended a trial by its number, so that a worker could end one of another study: its own
had been deleted and made again meanwhile, or a copy of the database had been restored.
"""

from __future__ import annotations

import json

from optuna.trial import FrozenTrial, TrialState

from axsearch.errors import UsageError
from axsearch.space.recipe import EXACT, Recipe
from axsearch.store.artifacts import attached
from axsearch.store.attributes import RECIPE_ATTR, WORKER_ATTR
from axsearch.store.database import Database
from axsearch.store.studies import ended_by
from axsearch.study.study import Study

RECIPE_FILE = "recipe.json"


def misplaced(database: Database, name: str, study_id: int) -> dict[int, str]:
    """The numbers of trials whose results are not those of their recipes, each with how one knows.

    Args:
        database: an open one.
        name: of a study; one that axsearch did not make has nothing to compare but files.
        study_id: Optuna's id of it.
    """
    storage = database.storage
    complete = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
    workers = ended_by(database.engine, study_id)
    found: dict[int, str] = {}
    for trial in complete:
        ended, began = workers.get(trial.number), trial.system_attrs.get(WORKER_ATTR)
        if ended is not None and began is not None and ended != began:
            found[trial.number] = "another worker ended it than began it"
    recipes = {trial.number: trial.user_attrs.get(RECIPE_ATTR) for trial in complete}
    for file in attached(database.engine, study_id):
        if file.name != RECIPE_FILE or not file.whole:
            continue
        if _hash(file.data) not in (None, recipes[file.trial]):
            found.setdefault(file.trial, f"its {RECIPE_FILE} is another recipe")
    try:
        study = Study.of(database, name)
    except UsageError:
        return found
    return {**_unlike(study, complete), **found}


def _hash(recipe: bytes) -> str | None:
    """The hash of a recipe in a file, None where it is none."""
    try:
        data = json.loads(recipe)
        if isinstance(data, dict):
            data.pop("sha256", None)
        return Recipe.from_dict(data).hash
    except (ValueError, UsageError):
        return None


def _unlike(study: Study, complete: list[FrozenTrial]) -> dict[int, str]:
    """Trials whose measurements are not what their recipes leave, or were evaluated to."""
    found: dict[int, str] = {}
    bases = [trial for trial in complete if trial.user_attrs.get(RECIPE_ATTR) == EXACT.hash]
    measured = []
    try:
        measured = study.measured(complete)
    except UsageError:  # of the first one that is not well; here it is told of each
        for trial in complete:
            try:
                measured += study.measured([*bases[:1], trial])[-1:]
            except UsageError as error:
                found[trial.number] = str(error)
    recipes = [Recipe.from_dict(m.recipe) for m in measured]
    known = study.outcomes(recipes)
    for measurement, recipe in zip(measured, recipes, strict=True):
        kept = known.get(recipe.hash)
        if kept is not None and not kept.low <= measurement.accuracy <= kept.high:
            found[measurement.trial or 0] = (
                f"its recipe was evaluated to {kept.value:.4f} ({kept.low:.4f} to {kept.high:.4f}),"
                f" not {measurement.accuracy:.4f}"
            )
    return found
