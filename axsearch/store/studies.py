"""Reading and writing studies: their models, tasks, machines, requests and exports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Table, Text, bindparam, cast, delete, insert, select, text, update
from sqlalchemy.orm import Session

from axsearch import strict_json
from axsearch.space.recipe import Recipe
from axsearch.store.identity import identity_of, identity_of_name
from axsearch.store.models import (
    CLOSED_FORM,
    ExportRow,
    MachineRow,
    ModelRow,
    StudyRow,
    TaskRow,
    TrialRow,
)
from axsearch.store.optuna_internals import STUDIES, STUDY_SYSTEM_ATTRS, TRIALS
from axsearch.store.outages import outlast
from axsearch.store.queries import add, save_with_recipe
from axsearch.store.records import damaged


@dataclass(frozen=True)
class ModelFacts:
    """A model as people look for it; sizes are those of its safetensors file."""

    name: str
    architecture: str
    size_bytes: int
    parameters: int


@outlast
def study_spec(engine: Engine, name: str) -> dict[str, Any] | None:
    """The specification of a study as JSON, None where there is no such study.

    Raises UsageError where it is no JSON object.
    """
    wanted = select(cast(StudyRow.spec, Text)).where(StudyRow.name == name)
    with Session(engine) as session:
        row = session.execute(wanted).first()
    if row is None:
        return None
    return _object(row[0] or "", name, "specification")


@outlast
def study_identity(engine: Engine, name: str) -> str | None:
    """What tells a study from later ones of its name and number; None where there is no study."""
    with Session(engine) as session:
        return identity_of_name(session, name)


def _object(text: str, name: str, what: str) -> dict[str, Any]:
    """The JSON object that a study has as its specification or settings, read strictly."""
    where = f"Study {name!r} in this database"
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise damaged(where, f"its {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise damaged(where, f"its {what} is not an object")
    return found


@outlast
def study_names(engine: Engine) -> list[str]:
    """The names of all studies."""
    with Session(engine) as session:
        return list(session.scalars(select(StudyRow.name).order_by(StudyRow.name)))


def save_study(
    engine: Engine, name: str, study_id: int, spec: Mapping[str, Any], model: ModelFacts
) -> None:
    """Record a new study, its model and its task; an existing one stays as it is.

    Args:
        engine: an open database.
        name: of the study.
        study_id: Optuna's id of it.
        spec: a StudySpec as JSON. Its machine must be known, see :func:`save_machine`.
        model: facts about the base.
    """
    splits = spec["splits"]
    given = [spec["task"], spec["metric"], *(splits[split] for split in sorted(splits))]
    task = hashlib.sha256(" ".join(map(str, given)).encode()).hexdigest()
    add(
        engine,
        ModelRow(
            fingerprint=spec["model_fingerprint"],
            name=model.name[-500:],
            architecture=model.architecture,
            size_bytes=model.size_bytes,
            parameters=model.parameters,
        ),
    )
    add(
        engine,
        TaskRow(
            fingerprint=task,
            kind=spec["task"],
            metric=spec["metric"],
            data=spec["data"][-500:],
            **{split: splits[split] for split in ("calibration", "search", "holdout")},
        ),
    )
    add(
        engine,
        StudyRow(
            name=name,
            study_id=study_id,
            model=spec["model_fingerprint"],
            task=task,
            machine=spec["machine"],
            objectives=",".join(spec["objectives"]),
            spec=dict(spec),
        ),
    )


_SHOWN = "(SELECT recipe FROM ax_evaluations WHERE weights IN :shown AND recipe <> :base)"
_AMONG_SHOWN = f"""
SELECT a.trial_id FROM ax_trials a WHERE a.study_id = :study AND a.recipe IN {_SHOWN}
UNION SELECT a.trial_id FROM ax_trials a
WHERE a.study_id = :study AND a.feasible AND a.accuracy IS NOT NULL
  AND a.recipe NOT IN {_SHOWN} AND NOT EXISTS (
    SELECT 1 FROM ax_trials b
    WHERE b.study_id = a.study_id AND b.feasible AND b.accuracy >= a.accuracy
      AND (a.latency IS NULL OR b.latency <= a.latency)
      AND (a.size IS NULL OR b.size <= a.size)
      AND (b.accuracy > a.accuracy OR b.latency < a.latency OR b.size < a.size
           OR b.trial_id < a.trial_id)
      AND b.recipe NOT IN {_SHOWN}
)"""
"""As ``ax_front``, but that models which are shown with other weights keep no others off."""


@outlast
def front_candidates(engine: Engine, study_id: int, base: str, shown: Sequence[str]) -> list[int]:
    """The ids of the trials that a study's front and its baseline are among, a few of them all.

    Those of ``ax_front``, or, where models were evaluated with weights of the keys ``shown``: these
    models, and the front of all others, which they may no longer beat. Then those with the base's
    recipe, whose hash is ``base``, and complete trials that ``ax_trials`` does not have: another
    trial has their recipe, or something else than axsearch made them.
    """
    wanted = text(
        (_AMONG_SHOWN if shown else "SELECT trial_id FROM ax_front WHERE study_id = :study")
        + " UNION SELECT trial_id FROM ax_trials WHERE study_id = :study AND recipe = :base"
        " AND accuracy IS NOT NULL"
        " UNION SELECT t.trial_id FROM trials t LEFT JOIN ax_trials a ON a.trial_id = t.trial_id"
        " AND a.study_id = t.study_id"
        " WHERE t.study_id = :study AND t.state = 'COMPLETE' AND a.trial_id IS NULL"
    )
    if shown:
        wanted = wanted.bindparams(bindparam("shown", expanding=True))
    with Session(engine) as session:
        given: dict[str, Any] = {"study": study_id, "base": base}
        given |= {"shown": [*shown]} if shown else {}
        return sorted(session.execute(wanted, given).scalars())


@outlast
def evaluated_recipes(engine: Engine, study_id: int, *, trained: bool = False) -> list[str]:
    """The hashes of the recipes that a study evaluated on all examples, the smallest first.

    Those of models as they were cut, or of those that were trained further.
    """
    before = TrialRow.recovered_from
    own = TrialRow.study_id == study_id, before.is_not(None) if trained else before.is_(None)
    wanted = (
        select(TrialRow.recipe)
        .where(*own, TrialRow.accuracy.is_not(None))
        .order_by(TrialRow.size_ratio, TrialRow.recipe)
    )
    with Session(engine) as session:
        return list(session.scalars(wanted))


@outlast
def trial_ids(engine: Engine, study_id: int, numbers: Sequence[int]) -> list[int]:
    """The ids of a study's trials with these numbers."""
    wanted = select(TRIALS.c.trial_id).where(
        TRIALS.c.study_id == study_id, TRIALS.c.number.in_(set(numbers))
    )
    with Session(engine) as session:
        return sorted(session.scalars(wanted))


@outlast
def change_attributes(
    engine: Engine,
    study_id: int,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    identity: str | None = None,
    attrs: Table = STUDY_SYSTEM_ATTRS,
) -> bool:
    """Write attributes of a study, all of them or none, while no other does the same.

    Optuna writes one after the other, so that two writers of a text in several parts can leave a
    mixture of both. Returns false, with nothing written, where the study was deleted or another
    has its number.

    Args:
        engine: an open database.
        study_id: Optuna's id of it.
        change: receives all attributes and returns those to write.
        identity: of the study, as :func:`study_identity` read it; None for any.
        attrs: the table of the attributes.
    """
    ours = STUDIES.c.study_id == study_id
    with Session(engine) as session, session.begin():
        # Changes nothing, and holds the study's row, or all of SQLite, until the end.
        held = update(STUDIES).where(ours).values(study_name=STUDIES.c.study_name)
        if not session.execute(held).rowcount:  # type: ignore[attr-defined]
            return False
        if identity is not None and identity_of(session, study_id) != identity:
            return False
        own = attrs.c.study_id == study_id
        found = session.execute(select(attrs.c.key, attrs.c.value_json).where(own))
        before = {key: json.loads(value) for key, value in found}
        new, changed = [], []
        for key, value in change(before).items():
            if key not in before:
                new.append({"study_id": study_id, "key": key, "value_json": json.dumps(value)})
            elif before[key] != value:
                changed.append({"changed": key, "value_json": json.dumps(value)})
        if new:
            session.execute(insert(attrs), new)
        if changed:
            session.connection().execute(
                update(attrs).where(own, attrs.c.key == bindparam("changed")), changed
            )
    return True


@dataclass(frozen=True)
class TrialHistory:
    """When a trial ran, and its result; times are UTC, costs ratios to the base.

    ``began`` is None of a trial that waits, ``ended`` of one that runs; the rest is what
    ``ax_trials`` has of it, None where it has nothing.
    """

    number: int
    began: datetime | None
    ended: datetime | None
    seconds: float | None
    accuracy: float | None
    latency_ratio: float | None
    size_ratio: float | None
    feasible: bool | None


@outlast
def trial_history(engine: Engine, study_id: int) -> list[TrialHistory]:
    """All trials of a study, by number, in one query."""
    trials, own = TRIALS.c, TrialRow
    wanted = (
        select(
            trials.number,
            trials.datetime_start,
            trials.datetime_complete,
            own.seconds,
            own.accuracy,
            own.latency_ratio,
            own.size_ratio,
            own.feasible,
        )
        .outerjoin(own, (own.trial_id == trials.trial_id) & (own.study_id == trials.study_id))
        .where(trials.study_id == study_id)
        .order_by(trials.number)
    )
    with Session(engine) as session:
        return [TrialHistory(*row) for row in session.execute(wanted)]


@outlast
def ended_by(engine: Engine, study_id: int) -> dict[int, str]:
    """The worker that wrote the result of each trial, by its number, where that is recorded."""
    own = TrialRow
    wanted = (
        select(TRIALS.c.number, own.worker)
        .join(own, (own.trial_id == TRIALS.c.trial_id) & (own.study_id == TRIALS.c.study_id))
        .where(TRIALS.c.study_id == study_id, own.finished, own.worker.is_not(None))
    )
    with Session(engine) as session:
        return {number: str(worker) for number, worker in session.execute(wanted)}


@outlast
def delete_study(engine: Engine, name: str) -> None:
    """Delete a study's specification; its evaluations stay."""
    with Session(engine) as session:
        study_id = session.scalar(select(StudyRow.study_id).where(StudyRow.name == name))
        session.execute(delete(TrialRow).where(TrialRow.study_id == study_id))
        session.execute(delete(StudyRow).where(StudyRow.name == name))
        session.commit()


@outlast
def ask_for(engine: Engine, name: str, trials: int, settings: Mapping[str, Any]) -> None:
    """Record how many trials are wanted of a study, and how they are to be run."""
    wanted = update(StudyRow).where(StudyRow.name == name)
    with Session(engine) as session:
        session.execute(wanted.values(trials=trials, settings=dict(settings)))
        session.commit()


@outlast
def asked_for(engine: Engine, name: str) -> tuple[int, dict[str, Any]] | None:
    """The last values of :func:`ask_for`; None without any, as in studies of older versions."""
    wanted = select(StudyRow.trials, cast(StudyRow.settings, Text)).where(StudyRow.name == name)
    with Session(engine) as session:
        row = session.execute(wanted).first()
    if row is None or row[0] is None or row[1] in (None, "null"):
        return None
    return row[0], _object(row[1], name, "record of settings")


def save_machine(engine: Engine, name: str, facts: Mapping[str, Any]) -> None:
    """Record a machine once; ``facts`` are the other columns of :class:`MachineRow`."""
    add(engine, MachineRow(name=name, **facts))


def save_export(
    engine: Engine,
    study: str,
    trial: int,
    recipe: Recipe,
    format: str,
    path: str,
    sha256: str,
    weights: str = CLOSED_FORM,
) -> None:
    """Record that a trial's model was exported; ``sha256`` is its manifest's."""
    save_with_recipe(
        engine,
        recipe,
        ExportRow(
            study=study,
            trial=trial,
            recipe=recipe.hash,
            weights=weights,
            format=format,
            path=path,
            sha256=sha256,
        ),
    )


@dataclass(frozen=True)
class Exported:
    """The study and the trial of an export that a database knows."""

    study: str
    trial: int


@outlast
def exports_with(engine: Engine, sha256: str) -> list[Exported]:
    """The exports whose manifest has this checksum, the latest first."""
    with Session(engine) as session:
        wanted = select(ExportRow).where(ExportRow.sha256 == sha256)
        rows = session.scalars(wanted.order_by(ExportRow.id.desc()))
        return [Exported(row.study, row.trial) for row in rows]
