"""Queries of recipes, evaluations, latencies and calibrations."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Engine, delete, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, make_transient

from axsearch.errors import cause
from axsearch.space.recipe import Recipe
from axsearch.statistics.outcome import Estimate, Outcome, packed, unpacked
from axsearch.store.models import (
    CLOSED_FORM,
    CalibrationRow,
    EvaluationRow,
    LatencyRow,
    RecipeRow,
)
from axsearch.store.outages import outlast
from axsearch.store.records import damaged

WHOLE = "whole"
"""The stage of an evaluation of the whole split."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a split with its interval, and each example's contribution to it.

    ``losses`` are those of each feature, (features,); None if an older version evaluated.
    """

    value: float
    low: float
    high: float
    outcome: Outcome
    losses: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class EvaluationKey:
    """The inputs of an evaluation: with the same key the result is the same, and is computed once.

    ``calibration`` is the fingerprint of the calibration split, which a compensated model depends
    on; ``weights`` is the key of the recipe's weights.
    """

    model: str
    calibration: str
    split: str
    dtype: str
    metric: str
    weights: str = CLOSED_FORM

    @property
    def compensated(self) -> str:
        """The key of the model if a recipe compensates: base and calibration split together."""
        return hashlib.sha256(f"{self.model} {self.calibration}".encode()).hexdigest()


@outlast
def load_recipes(engine: Engine, hashes: Iterable[str]) -> dict[str, Recipe]:
    """Recipes by hash; raises UsageError if one was edited in the database."""
    with Session(engine) as session:
        rows = session.scalars(select(RecipeRow).where(RecipeRow.hash.in_(set(hashes)))).all()
    return {row.hash: Recipe.from_stored(row.json, row.hash) for row in rows}


def load_evaluation(
    engine: Engine, key: EvaluationKey, recipe: str, stage: str = WHOLE
) -> Evaluation | None:
    """The stored evaluation of the recipe with this hash, or None."""
    return load_evaluations(engine, key, [recipe], stage).get(recipe)


@outlast
def load_evaluations(
    engine: Engine, key: EvaluationKey, recipes: Iterable[str], stage: str = WHOLE
) -> dict[str, Evaluation]:
    """Stored evaluations by recipe hash; recipes without one are left out.

    An evaluation in float32 is returned if there is none in the key's dtype with losses. ``stage``
    is the part of the split after which evaluation stopped; by default, the whole split.
    """
    wanted = select(EvaluationRow).where(*_where(key, recipes, stage))
    with Session(engine) as session:
        found = session.scalars(wanted).all()
        return {
            row.recipe: _evaluation(row)
            # the best last
            for row in sorted(found, key=lambda r: (r.losses is not None, r.dtype == key.dtype))
        }


@outlast
def load_accuracies(
    engine: Engine, key: EvaluationKey, recipes: Iterable[str]
) -> dict[str, Estimate]:
    """The accuracy on a whole split by recipe hash, with its interval, without its examples."""
    row = EvaluationRow
    wanted = select(row.recipe, row.value, row.low, row.high, row.dtype)
    with Session(engine) as session:
        found = session.execute(wanted.where(*_where(key, recipes))).all()
    best_last = sorted(found, key=lambda one: bool(one.dtype == key.dtype))
    return {one.recipe: Estimate(one.value, one.low, one.high) for one in best_last}


def _where(
    key: EvaluationKey, recipes: Iterable[str], stage: str = WHOLE
) -> list[ColumnElement[bool]]:
    return [
        # A recipe compensates or not, so its hash is found under only one of the two.
        EvaluationRow.model.in_((key.model, key.compensated)),
        EvaluationRow.weights == key.weights,
        EvaluationRow.split == key.split,
        EvaluationRow.dtype.in_((key.dtype, "float32")),
        EvaluationRow.metric == key.metric,
        EvaluationRow.stage == stage,
        EvaluationRow.recipe.in_(set(recipes)),
    ]


def _evaluation(row: EvaluationRow) -> Evaluation:
    try:
        outcome = Outcome.unpacked(row.statistic, row.outcome)
        losses = None if row.losses is None else unpacked(row.losses)
    except (zlib.error, ValueError, EOFError) as error:
        where = f"The stored evaluation of recipe {row.recipe[:12]}"
        raise damaged(where, cause(error)) from None
    return Evaluation(row.value, row.low, row.high, outcome, losses)


def save_evaluation(
    engine: Engine,
    key: EvaluationKey,
    recipe: Recipe,
    split_name: str,
    result: Evaluation,
    stage: str = WHOLE,
) -> None:
    """Store an evaluation, unless another worker has already stored the same one."""
    save_with_recipe(
        engine,
        recipe,
        EvaluationRow(
            model=key.model if recipe.compensation == "none" else key.compensated,
            recipe=recipe.hash,
            weights=key.weights,
            split=key.split,
            dtype=key.dtype,
            metric=key.metric,
            stage=stage,
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
    """Where and for what a latency was measured; ``workload`` fingerprints the batches.

    ``weights`` is the key of the weights that were timed. Latency mostly depends on shapes alone,
    but not always (which tokens are dropped and which layers are skipped depends on what the model
    computes), so weights are part of the key.
    """

    model: str
    workload: str
    machine: str
    weights: str = CLOSED_FORM

    def where(self) -> list[ColumnElement[bool]]:
        """The conditions that its rows meet."""
        return [getattr(LatencyRow, name) == value for name, value in asdict(self).items()]


@outlast
def load_latency(engine: Engine, key: LatencyKey, recipe: str) -> dict[str, float] | None:
    """The latest latency of a recipe: model_ms, base_ms, ratio, low, high, pairs; or None."""
    wanted = (
        select(LatencyRow)
        .where(*key.where(), LatencyRow.recipe == recipe)
        .order_by(LatencyRow.id.desc())
        .limit(1)
    )
    fields = ("model_ms", "base_ms", "ratio", "low", "high", "pairs")
    with Session(engine) as session:
        row = session.scalars(wanted).first()
        return None if row is None else {field: getattr(row, field) for field in fields}


@outlast
def load_ratios(engine: Engine, key: LatencyKey, recipes: Iterable[str]) -> dict[str, float]:
    """The latest latency ratio by recipe hash; recipes that were not timed are left out."""
    wanted = (
        select(LatencyRow.recipe, LatencyRow.ratio)
        .where(*key.where(), LatencyRow.recipe.in_(set(recipes)))
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
    """Store a latency; ``latency`` has the fields that :func:`load_latency` returns.

    The machine must have been stored by :func:`axsearch.store.studies.save_machine`.
    """
    save_with_recipe(
        engine,
        recipe,
        LatencyRow(**asdict(key), recipe=recipe.hash, scenario=scenario, **latency),
    )


@outlast
def save_latency_table(
    engine: Engine, key: LatencyKey, scenario: dict[str, Any], entries: dict[str, float], pairs: int
) -> None:
    """Store the entries of a latency table as rows, for queries in SQL.

    Args:
        engine: an open database.
        key: model, workload and machine of the table.
        scenario: as plain data.
        entries: the share of the base's time by entry.
        pairs: how many times each entry was measured.
    """
    with Session(engine) as session:
        session.execute(delete(LatencyRow).where(*key.where(), LatencyRow.entry.is_not(None)))
        session.add_all(
            LatencyRow(**asdict(key), entry=entry, scenario=scenario, ratio=share, pairs=pairs)
            for entry, share in entries.items()
        )
        session.commit()


@outlast
def load_calibration(engine: Engine, model: str, split: str, kind: str) -> dict[str, Any] | None:
    """A stored calibration table, or None."""
    with Session(engine) as session:
        row = session.get(CalibrationRow, (model, split, kind))
        return None if row is None else dict(row.data)


def save_calibration(
    engine: Engine, model: str, split: str, kind: str, data: dict[str, Any]
) -> None:
    """Store a calibration table."""
    add(engine, CalibrationRow(model=model, split=split, kind=kind, data=data))


@outlast
def replace_calibration(
    engine: Engine, model: str, split: str, kind: str, data: dict[str, Any]
) -> None:
    """Store a calibration table in place of one that said less."""
    with Session(engine) as session, session.begin():
        session.merge(CalibrationRow(model=model, split=split, kind=kind, data=data))


@outlast
def save_with_recipe(engine: Engine, recipe: Recipe, *rows: Any) -> None:
    """Add rows and the recipe they refer to, if it is new, in one transaction."""
    with Session(engine, expire_on_commit=False) as session:
        known = session.get(RecipeRow, recipe.hash) is not None
        new = [] if known else [RecipeRow(hash=recipe.hash, json=recipe.to_json())]
        if not (new or rows):
            return
        try:
            session.add_all(new)
            session.flush()  # or a row that names the recipe might be written before it
            session.add_all(rows)
            session.commit()
            return
        except IntegrityError:  # another worker wrote one of them first
            session.rollback()
    for row in (*new, *rows):
        make_transient(row)
        add(engine, row)


@outlast
def add(engine: Engine, row: Any) -> None:
    """Insert a row, unless another worker has already inserted the same one."""
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
            # Another worker inserted the same row first, or an older version a less complete one.
            if isinstance(row, EvaluationRow):
                session.merge(row)
                session.commit()
