"""Recovered models, which were trained further, as trials of the study of what they were made from.

Such a trial is added when all about it is known. No search asked for it, so it is part of no budget
(:func:`axsearch.store.claims.finished_recipes`), and samplers do not see it
(:class:`axsearch.store.optuna_internals.SearchedStudy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from axsearch.space.recipe import Recipe
from axsearch.store import claims
from axsearch.store.artifacts import attach
from axsearch.store.attributes import RECOVERED_ATTR
from axsearch.store.optuna_internals import TRIALS, ExtensibleStorage
from axsearch.store.outages import attempts


@dataclass(frozen=True)
class Recovered:
    """A recovered model.

    Attributes:
        recipe: of the model, with the key of its weights.
        template: the complete trial; its attribute :data:`RECOVERED_ATTR` says whose model it was.
        columns: of its recipe's row, see :class:`axsearch.store.models.TrialRow`.
        files: its artifacts, by name.

    Raises:
        ValueError: the template is of another kind.
    """

    recipe: Recipe
    template: FrozenTrial
    columns: Mapping[str, Any]
    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.template.state != TrialState.COMPLETE:
            raise ValueError("A recovered model is a complete trial.")
        if not isinstance(self.template.user_attrs.get(RECOVERED_ATTR), int):
            raise ValueError(f"A recovered model's {RECOVERED_ATTR} is the number of a trial.")


def add(
    storage: ExtensibleStorage, study_id: int, identity: str | None, model: Recovered
) -> tuple[int, bool]:
    """Add a recovered model in one transaction, unless a trial of the study has finished it.

    Returns the number of the trial that has it, and whether this call added that.

    Args:
        storage: of the study.
        study_id: of the study.
        identity: of the study, None for any; GoneError is raised where it is another one.
        model: the model.
    """
    ours: set[int] = set()  # what earlier attempts inserted, if their end was written after all
    for attempt in attempts():
        with attempt:
            try:
                added = _add(storage, study_id, identity, model, ours)
            except IntegrityError:  # another process wrote the recipe, or began with it, just now
                added = _add(storage, study_id, identity, model, ours)
    return added


def _add(
    storage: ExtensibleStorage,
    study_id: int,
    identity: str | None,
    model: Recovered,
    ours: set[int],
) -> tuple[int, bool]:
    recipe = model.recipe.hash
    with storage.transaction() as session:
        claims.lock_study(session, study_id, identity)
        found = claims.holder(session, study_id, recipe)
        if found is not None and found.state == "finished":
            number = _number(session, study_id, found.trial)
            if number is not None:  # else the trial was deleted, and this one is in its place
                return number, found.trial in ours
        row = storage.insert_trial(session, study_id, model.template)
        if found is None:
            claims.add_claim(session, study_id, recipe, model.recipe.to_json(), row.trial_id)
        else:
            claims.take_over(session, study_id, recipe, found.trial, row.trial_id, found.attempt)
        origin = model.template.user_attrs[RECOVERED_ATTR]
        columns = {**model.columns, "recovered_from": origin, "finished": True}
        claims.end(session, study_id, row.trial_id, columns)
        for name, data in model.files.items():
            attach(session, row.trial_id, name, data)
        ours.add(row.trial_id)
        return row.number, True


def _number(session: Session, study_id: int, trial_id: int) -> int | None:
    own = TRIALS.c.trial_id == trial_id, TRIALS.c.study_id == study_id
    number: int | None = session.scalar(select(TRIALS.c.number).where(*own))
    return number
