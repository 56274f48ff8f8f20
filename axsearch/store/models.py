"""The tables of axsearch, prefix ``ax_``; the view ``ax_front`` is made by a migration.

They stand beside Optuna's in one database. What refers to a study or a trial has its id of Optuna's
tables, without a foreign key: Optuna deletes by its own rules, and SQLite would not enforce one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SHA256 = String(64)
MACHINE = String(200)

CLOSED_FORM = ""
"""The key of weights that are computed, not trained.

They are the base's own tensors, cut as the recipe says, with the closed-form compensation that it
names: all that was measured before revision 0005. The key of trained weights is a SHA-256.
"""

# MySQL's TEXT and BLOB hold 64 KB, less than a recipe of a large model.
LongText = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
Blob = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")


def _now() -> datetime:
    return datetime.now(UTC)


class TableBase(DeclarativeBase):
    """The base of all tables; columns typed ``dict`` hold JSON."""

    type_annotation_map = {dict[str, Any]: JSON, float: Double}  # noqa: RUF012


class ModelRow(TableBase):
    """A fine-tuned model, the base of studies; sizes are of its safetensors file."""

    __tablename__ = "ax_models"

    fingerprint: Mapped[str] = mapped_column(SHA256, primary_key=True)
    name: Mapped[str] = mapped_column(String(500))
    architecture: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class TaskRow(TableBase):
    """A task: three splits, by their fingerprints, and a metric."""

    __tablename__ = "ax_tasks"

    fingerprint: Mapped[str] = mapped_column(SHA256, primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    metric: Mapped[str] = mapped_column(String(32))
    data: Mapped[str] = mapped_column(String(500))
    calibration: Mapped[str] = mapped_column(SHA256)
    search: Mapped[str] = mapped_column(SHA256)
    holdout: Mapped[str] = mapped_column(SHA256)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class MachineRow(TableBase):
    """Where something was measured; ``name`` is what makes two latencies comparable."""

    __tablename__ = "ax_machines"

    name: Mapped[str] = mapped_column(MACHINE, primary_key=True)
    host: Mapped[str | None] = mapped_column(String(200))
    processor: Mapped[str | None] = mapped_column(String(200))
    cores: Mapped[int | None]
    gpu: Mapped[str | None] = mapped_column(String(200))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    versions: Mapped[dict[str, Any] | None]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class StudyRow(TableBase):
    """The specification of a study: enough to resume it, to refuse another one, and to export from
    it. ``trials`` and ``settings`` are those of the last search; workers follow them.
    """

    __tablename__ = "ax_studies"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    study_id: Mapped[int | None] = mapped_column(Integer, index=True)
    model: Mapped[str | None] = mapped_column(SHA256, ForeignKey(ModelRow.fingerprint))
    task: Mapped[str | None] = mapped_column(SHA256, ForeignKey(TaskRow.fingerprint))
    machine: Mapped[str | None] = mapped_column(MACHINE, ForeignKey(MachineRow.name))
    objectives: Mapped[str] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]]
    trials: Mapped[int | None]
    settings: Mapped[dict[str, Any] | None]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class RecipeRow(TableBase):
    """A recipe by its hash."""

    __tablename__ = "ax_recipes"

    hash: Mapped[str] = mapped_column(SHA256, primary_key=True)
    json: Mapped[str] = mapped_column(LongText)


class TrialRow(TableBase):
    """One distinct recipe of a study, and the trial that has it.

    A row exists from the moment a trial is queued for the recipe or takes it; ``attempt`` counts
    the trials that have had it. ``finished`` is set with the end of the trial, in one transaction:
    these rows are what the budget of a study counts, without those of recovered models.
    ``accuracy`` is null where the evaluation was stopped early or nothing is finished yet.
    ``latency`` and ``size`` are what the study minimises (null where they are no objective),
    ``latency_ratio`` and ``size_ratio`` what is known. ``feasible`` says whether all limits of the
    study are kept, ``seconds`` how long the trial took. ``recovered_from`` is the number of the
    trial whose model was trained further to make this one; null of a trial that a search made.
    """

    __tablename__ = "ax_trials"

    study_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    recipe: Mapped[str] = mapped_column(SHA256, ForeignKey(RecipeRow.hash), primary_key=True)
    trial_id: Mapped[int] = mapped_column(Integer, index=True)
    attempt: Mapped[int] = mapped_column(default=1)
    finished: Mapped[bool] = mapped_column(default=False)
    feasible: Mapped[bool] = mapped_column(default=False)
    accuracy: Mapped[float | None]
    accuracy_low: Mapped[float | None]
    accuracy_high: Mapped[float | None]
    latency: Mapped[float | None]
    size: Mapped[float | None]
    latency_ratio: Mapped[float | None]
    size_ratio: Mapped[float | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    worker: Mapped[str | None] = mapped_column(MACHINE)
    recovered_from: Mapped[int | None]

    __table_args__ = (
        # What ax_front looks through for each trial: those at least as accurate.
        Index("ix_ax_trials_front", "study_id", "feasible", "accuracy", "latency", "size"),
        Index("ix_ax_trials_finished", "study_id", "finished"),
    )


class EvaluationRow(TableBase):
    """Accuracy of one recipe of one model, with these weights, on one split.

    ``weights`` is the key of what the recipe's tensors are, see :data:`CLOSED_FORM`.
    ``stage`` is ``whole``, or how many of how many examples were seen, such as ``125/1000``, where
    evaluation was stopped; its value is then an estimate for the whole split. ``statistic`` and
    ``outcome`` are those of :class:`axsearch.statistics.outcome.Outcome`, packed. ``losses`` has
    the loss of each feature, packed the same way; null where evaluation was stopped, and in rows of
    older versions.
    """

    __tablename__ = "ax_evaluations"

    model: Mapped[str] = mapped_column(SHA256, primary_key=True)
    recipe: Mapped[str] = mapped_column(SHA256, ForeignKey(RecipeRow.hash), primary_key=True)
    weights: Mapped[str] = mapped_column(
        SHA256, primary_key=True, default=CLOSED_FORM, server_default=CLOSED_FORM
    )
    split: Mapped[str] = mapped_column(SHA256, primary_key=True)
    dtype: Mapped[str] = mapped_column(String(16), primary_key=True)
    metric: Mapped[str] = mapped_column(String(32), primary_key=True)
    stage: Mapped[str] = mapped_column(String(24), primary_key=True)
    split_name: Mapped[str] = mapped_column(String(16))
    value: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    examples: Mapped[int]
    statistic: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[bytes] = mapped_column(Blob)
    losses: Mapped[bytes | None] = mapped_column(Blob)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class LatencyRow(TableBase):
    """A latency measured on one machine for one scenario: of a recipe, or an entry of a table.

    ``weights`` is the key of the tensors that were timed, see :data:`CLOSED_FORM`.
    ``ratio`` is the median of paired ratios to the base, ``low`` and ``high`` their quartiles. Of a
    latency table's ``entry``, such as ``attention heads=8``, it is the block's share of the base's
    time, and ``pairs`` the rounds it was measured in; the rest is null.
    """

    __tablename__ = "ax_latencies"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(SHA256, index=True)
    recipe: Mapped[str | None] = mapped_column(SHA256, ForeignKey(RecipeRow.hash), index=True)
    weights: Mapped[str] = mapped_column(SHA256, default=CLOSED_FORM, server_default=CLOSED_FORM)
    entry: Mapped[str | None] = mapped_column(String(200))
    workload: Mapped[str] = mapped_column(SHA256)
    machine: Mapped[str] = mapped_column(MACHINE, ForeignKey(MachineRow.name))
    scenario: Mapped[dict[str, Any]]
    model_ms: Mapped[float | None]
    base_ms: Mapped[float | None]
    ratio: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    pairs: Mapped[int]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class CalibrationRow(TableBase):
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


class ArtifactRow(TableBase):
    """A small file that belongs to a trial; Optuna's attribute of the trial has its name."""

    __tablename__ = "ax_artifacts"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    sha256: Mapped[str] = mapped_column(SHA256)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[bytes] = mapped_column(Blob)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class WeightsRow(TableBase):
    """Trained weights, which are a file outside of the database.

    ``key`` is a SHA-256 of all that they were made from, ``recipe`` that of the model that was
    trained, before its weights had a key. ``artifact`` is the file's name in the folder or bucket
    (see :mod:`axsearch.store.trained_weights`), ``sha256`` its checksum, ``made`` how they were
    made: study, trial, learning rate, epochs, seed, the weight of labels and the loss on what was
    held back. ``seconds`` is how long the training took.
    """

    __tablename__ = "ax_weights"

    key: Mapped[str] = mapped_column(SHA256, primary_key=True)
    recipe: Mapped[str] = mapped_column(SHA256, ForeignKey(RecipeRow.hash))
    artifact: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(SHA256)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    made: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class ExportRow(TableBase):
    """A model that was exported; ``sha256`` is that of the export's manifest.

    ``weights`` is the key of the tensors that were exported, see :data:`CLOSED_FORM`.
    """

    __tablename__ = "ax_exports"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study: Mapped[str] = mapped_column(String(200))
    trial: Mapped[int]
    recipe: Mapped[str] = mapped_column(SHA256, ForeignKey(RecipeRow.hash))
    weights: Mapped[str] = mapped_column(SHA256, default=CLOSED_FORM, server_default=CLOSED_FORM)
    format: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(LongText)
    sha256: Mapped[str] = mapped_column(SHA256)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
