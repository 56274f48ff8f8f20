"""The tables of axsearch, prefix ``ax_``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Double, ForeignKey, Integer, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SHA256 = String(64)


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables; columns typed ``dict`` hold JSON."""

    type_annotation_map = {dict[str, Any]: JSON, float: Double}  # noqa: RUF012


class StudyRow(Base):
    """What a study is about: enough to resume it, to refuse another one, and to export from it."""

    __tablename__ = "ax_studies"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    spec: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class RecipeRow(Base):
    """A recipe by its hash."""

    __tablename__ = "ax_recipes"

    hash: Mapped[str] = mapped_column(SHA256, primary_key=True)
    json: Mapped[str] = mapped_column(Text)


class EvaluationRow(Base):
    """Accuracy of one recipe of one model on one split.

    ``statistic`` and ``outcome`` are those of :class:`axsearch.outcome.Outcome`, packed. ``losses``
    has the loss of each feature, packed alike; None in what older versions evaluated.
    """

    __tablename__ = "ax_evaluations"

    model: Mapped[str] = mapped_column(SHA256, primary_key=True)
    recipe: Mapped[str] = mapped_column(SHA256, ForeignKey(RecipeRow.hash), primary_key=True)
    split: Mapped[str] = mapped_column(SHA256, primary_key=True)
    dtype: Mapped[str] = mapped_column(String(16), primary_key=True)
    metric: Mapped[str] = mapped_column(String(32), primary_key=True)
    split_name: Mapped[str] = mapped_column(String(16))
    value: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    examples: Mapped[int]
    statistic: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[bytes] = mapped_column(LargeBinary)
    losses: Mapped[bytes | None] = mapped_column(LargeBinary)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class LatencyRow(Base):
    """A latency of one recipe of one model, measured on one machine for one scenario."""

    __tablename__ = "ax_latencies"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(SHA256, index=True)
    recipe: Mapped[str] = mapped_column(SHA256, ForeignKey(RecipeRow.hash))
    workload: Mapped[str] = mapped_column(SHA256)
    machine: Mapped[str] = mapped_column(String(200))
    scenario: Mapped[dict[str, Any]]
    model_ms: Mapped[float]
    base_ms: Mapped[float]
    ratio: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    pairs: Mapped[int]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class CalibrationRow(Base):
    """A table measured once for a model and a calibration split.

    A latency table has the fingerprint of its workload in place of the split's, and its machine in
    its kind.
    """

    __tablename__ = "ax_calibrations"

    model: Mapped[str] = mapped_column(SHA256, primary_key=True)
    split: Mapped[str] = mapped_column(SHA256, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    data: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
