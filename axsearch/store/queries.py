"""What axsearch reads from and writes to its tables."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, Text, cast, delete, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, make_transient

from axsearch import strict_json
from axsearch.errors import cause
from axsearch.outcome import Outcome, packed, unpacked
from axsearch.recipe import Recipe
from axsearch.records import damaged
from axsearch.store.models import CalibrationRow, EvaluationRow, LatencyRow, RecipeRow, StudyRow


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a split with its interval, and what each example adds to it.

    ``losses`` are those of each feature, (features,); None where an older version evaluated.
    """

    value: float
    low: float
    high: float
    outcome: Outcome
    losses: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class EvaluationKey:
    """What makes two evaluations the same: they give the same result and are done once.

    ``calibration`` is the fingerprint of the calibration split, which makes a compensated model
    what it is.
    """

    model: str
    calibration: str
    split: str
    dtype: str
    metric: str

    @property
    def compensated(self) -> str:
        """What stands for the model where a recipe compensates: base and calibration together."""
        return hashlib.sha256(f"{self.model} {self.calibration}".encode()).hexdigest()


def study_spec(engine: Engine, name: str) -> Any:
    """The specification of a study as JSON, None where there is no such study.

    Raises UsageError where it is no JSON object.
    """
    wanted = select(cast(StudyRow.spec, Text)).where(StudyRow.name == name)  # read strictly, here
    with Session(engine) as session:
        row = session.execute(wanted).first()
    if row is None:
        return None
    where = f"Study {name!r} in this database"
    try:
        spec = strict_json.loads(row[0] or "")
    except ValueError as error:
        raise damaged(where, f"its specification is not JSON: {error}") from None
    if not isinstance(spec, dict):
        raise damaged(where, "its specification is not an object")
    return spec


def study_names(engine: Engine) -> list[str]:
    """The names of all studies."""
    with Session(engine) as session:
        return list(session.scalars(select(StudyRow.name).order_by(StudyRow.name)))


def save_study(engine: Engine, name: str, spec: dict[str, Any]) -> None:
    """Record a new study."""
    _add(engine, StudyRow(name=name, spec=spec))


def delete_study(engine: Engine, name: str) -> None:
    """Forget what a study was about; its evaluations stay."""
    with Session(engine) as session:
        session.execute(delete(StudyRow).where(StudyRow.name == name))
        session.commit()


def save_recipe(engine: Engine, recipe: Recipe) -> None:
    """Record a recipe once."""
    _with_recipe(engine, recipe)


def load_recipes(engine: Engine, hashes: Iterable[str]) -> dict[str, Recipe]:
    """Recipes by hash; raises UsageError where one was edited in the database."""
    with Session(engine) as session:
        rows = session.scalars(select(RecipeRow).where(RecipeRow.hash.in_(set(hashes)))).all()
    return {row.hash: Recipe.from_stored(row.json, row.hash) for row in rows}


def load_evaluation(engine: Engine, key: EvaluationKey, recipe: str) -> Evaluation | None:
    """A stored evaluation of the recipe with this hash."""
    return load_evaluations(engine, key, [recipe]).get(recipe)


def load_evaluations(
    engine: Engine, key: EvaluationKey, recipes: Iterable[str]
) -> dict[str, Evaluation]:
    """Stored evaluations by recipe hash; recipes without one are left out.

    One in float32 serves where there is none in the key's dtype that has its losses.
    """
    wanted = select(EvaluationRow).where(
        # A recipe compensates or does not, so a hash is found under one of the two only.
        EvaluationRow.model.in_((key.model, key.compensated)),
        EvaluationRow.split == key.split,
        EvaluationRow.dtype.in_((key.dtype, "float32")),
        EvaluationRow.metric == key.metric,
        EvaluationRow.recipe.in_(set(recipes)),
    )
    with Session(engine) as session:
        found = session.scalars(wanted).all()
        return {
            row.recipe: _evaluation(row)
            # the best last
            for row in sorted(found, key=lambda r: (r.losses is not None, r.dtype == key.dtype))
        }


def _evaluation(row: EvaluationRow) -> Evaluation:
    try:
        outcome = Outcome.unpacked(row.statistic, row.outcome)
        losses = None if row.losses is None else unpacked(row.losses)
    except (zlib.error, ValueError, EOFError) as error:
        where = f"The stored evaluation of recipe {row.recipe[:12]}"
        raise damaged(where, cause(error)) from None
    return Evaluation(row.value, row.low, row.high, outcome, losses)


def save_evaluation(
    engine: Engine, key: EvaluationKey, recipe: Recipe, split_name: str, result: Evaluation
) -> None:
    """Keep an evaluation; another worker may have been first, with the same result."""
    _with_recipe(
        engine,
        recipe,
        EvaluationRow(
            model=key.model if recipe.compensation == "none" else key.compensated,
            recipe=recipe.hash,
            split=key.split,
            dtype=key.dtype,
            metric=key.metric,
            split_name=split_name,
            value=result.value,
            low=result.low,
            high=result.high,
            examples=len(result.outcome),
            statistic=result.outcome.statistic,
            outcome=result.outcome.packed(),
            losses=None if result.losses is None else packed(result.losses),
        ),
    )


@dataclass(frozen=True)
class LatencyKey:
    """Where and for what a latency was measured; ``workload`` fingerprints the batches."""

    model: str
    workload: str
    machine: str


def load_latency(engine: Engine, key: LatencyKey, recipe: str) -> dict[str, float] | None:
    """The newest latency of a recipe: model_ms, base_ms, ratio, low, high, pairs."""
    wanted = (
        select(LatencyRow)
        .where(
            LatencyRow.model == key.model,
            LatencyRow.workload == key.workload,
            LatencyRow.machine == key.machine,
            LatencyRow.recipe == recipe,
        )
        .order_by(LatencyRow.id.desc())
        .limit(1)
    )
    fields = ("model_ms", "base_ms", "ratio", "low", "high", "pairs")
    with Session(engine) as session:
        row = session.scalars(wanted).first()
        return None if row is None else {field: getattr(row, field) for field in fields}


def load_ratios(engine: Engine, key: LatencyKey, recipes: Iterable[str]) -> dict[str, float]:
    """The newest latency ratio of each of these recipes that was timed."""
    wanted = (
        select(LatencyRow.recipe, LatencyRow.ratio)
        .where(
            LatencyRow.model == key.model,
            LatencyRow.workload == key.workload,
            LatencyRow.machine == key.machine,
            LatencyRow.recipe.in_(set(recipes)),
        )
        .order_by(LatencyRow.id)
    )
    with Session(engine) as session:
        return {row.recipe: row.ratio for row in session.execute(wanted)}


def save_latency(
    engine: Engine,
    key: LatencyKey,
    recipe: Recipe,
    scenario: dict[str, Any],
    latency: dict[str, float],
) -> None:
    """Keep a latency; ``latency`` has the fields that :func:`load_latency` gives."""
    _with_recipe(
        engine,
        recipe,
        LatencyRow(
            model=key.model,
            workload=key.workload,
            machine=key.machine,
            recipe=recipe.hash,
            scenario=scenario,
            **latency,
        ),
    )


def load_calibration(engine: Engine, model: str, split: str, kind: str) -> dict[str, Any] | None:
    """A stored calibration table."""
    with Session(engine) as session:
        row = session.get(CalibrationRow, (model, split, kind))
        return None if row is None else dict(row.data)


def save_calibration(
    engine: Engine, model: str, split: str, kind: str, data: dict[str, Any]
) -> None:
    """Keep a calibration table."""
    _add(engine, CalibrationRow(model=model, split=split, kind=kind, data=data))


def _with_recipe(engine: Engine, recipe: Recipe, *rows: Any) -> None:
    """Add rows and the recipe that they name, where it is new, in one transaction."""
    with Session(engine, expire_on_commit=False) as session:
        known = session.get(RecipeRow, recipe.hash) is not None
        new = [] if known else [RecipeRow(hash=recipe.hash, json=recipe.to_json())]
        if not (new or rows):
            return
        try:
            session.add_all(new)
            session.flush()  # or what names the recipe might be written before it
            session.add_all(rows)
            session.commit()
            return
        except IntegrityError:  # another worker wrote one of them first
            session.rollback()
    for row in (*new, *rows):
        make_transient(row)
        _add(engine, row)


def _add(engine: Engine, row: Any) -> None:
    with Session(engine, expire_on_commit=False) as session:
        session.add(row)
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
            make_transient(row)
            key = inspect(type(row)).primary_key_from_instance(row)
            if None in key or session.get(type(row), tuple(key)) is None:
                raise
            # Another worker wrote the same row first, or an older version, which knew less.
            if isinstance(row, EvaluationRow):
                session.merge(row)
                session.commit()
