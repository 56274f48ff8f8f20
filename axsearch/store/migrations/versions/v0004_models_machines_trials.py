"""Models, tasks, machines, trials, artifacts and exports; stages of evaluations; ``ax_front``."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

from axsearch.store.migrations.repeatable import create_index, create_table, has_table, rebuild

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SHA256, MACHINE = sa.String(64), sa.String(200)
TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
BLOB = sa.LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")

# A trial is on the front where none of its study is as good in all that is optimised and better in
# something, or as good and earlier. Where latency or size is no objective it is null in all trials
# of the study.
FRONT = """
CREATE VIEW ax_front AS
SELECT studies.study_name AS study, trials.number AS trial, a.recipe,
       a.accuracy, a.accuracy_low, a.accuracy_high, a.latency_ratio, a.size_ratio,
       a.size_bytes, a.parameters, a.study_id, a.trial_id
FROM ax_trials a
JOIN trials ON trials.trial_id = a.trial_id AND trials.study_id = a.study_id
JOIN studies ON studies.study_id = a.study_id
WHERE a.feasible AND a.accuracy IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM ax_trials b
    WHERE b.study_id = a.study_id AND b.feasible AND b.accuracy >= a.accuracy
      AND (a.latency IS NULL OR b.latency <= a.latency)
      AND (a.size IS NULL OR b.size <= a.size)
      AND (b.accuracy > a.accuracy OR b.latency < a.latency OR b.size < a.size
           OR b.trial_id < a.trial_id)
)
"""


def _created() -> sa.Column[datetime]:
    return sa.Column("created", sa.DateTime(timezone=True), nullable=False)


def _optional(kind: Any, *names: str) -> Iterator[sa.Column[Any]]:
    return (sa.Column(name, kind, nullable=True) for name in names)


def _needed(kind: Any, *names: str) -> Iterator[sa.Column[Any]]:
    return (sa.Column(name, kind, nullable=False) for name in names)


def upgrade() -> None:
    if op.get_bind().dialect.name in ("mysql", "mariadb"):
        op.alter_column("ax_recipes", "json", type_=TEXT, existing_nullable=False)
    _create_tables()
    known = _Known(op.get_bind())
    _rebuild_studies(known)
    _rebuild_evaluations()
    _rebuild_latencies()
    if "ax_front" not in sa.inspect(op.get_bind()).get_view_names():
        op.execute(FRONT)
    known.add_trials()


def _create_tables() -> None:
    create_table(
        "ax_models",
        sa.Column("fingerprint", SHA256, primary_key=True),
        *_needed(sa.String(500), "name"),
        *_optional(sa.String(64), "architecture"),
        *_optional(sa.BigInteger, "size_bytes", "parameters"),
        _created(),
    )
    create_table(
        "ax_tasks",
        sa.Column("fingerprint", SHA256, primary_key=True),
        *_needed(sa.String(64), "kind"),
        *_needed(sa.String(32), "metric"),
        *_needed(sa.String(500), "data"),
        *_needed(SHA256, "calibration", "search", "holdout"),
        _created(),
    )
    create_table(
        "ax_machines",
        sa.Column("name", MACHINE, primary_key=True),
        *_optional(sa.String(200), "host", "processor"),
        *_optional(sa.Integer, "cores"),
        *_optional(sa.String(200), "gpu"),
        *_optional(sa.BigInteger, "memory_bytes"),
        *_optional(sa.JSON, "versions"),
        _created(),
    )
    create_table(
        "ax_trials",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), primary_key=True),
        sa.Column("trial_id", sa.Integer, nullable=False, index=True),
        *_needed(sa.Integer, "attempt"),
        *_needed(sa.Boolean, "finished", "feasible"),
        *_optional(sa.Double, "accuracy", "accuracy_low", "accuracy_high", "latency", "size"),
        *_optional(sa.Double, "latency_ratio", "size_ratio"),
        *_optional(sa.BigInteger, "size_bytes", "parameters"),
        *_optional(sa.Double, "seconds"),
        *_optional(MACHINE, "worker"),
    )
    create_index(
        "ix_ax_trials_front",
        "ax_trials",
        ["study_id", "feasible", "accuracy", "latency", "size"],
    )
    create_index("ix_ax_trials_finished", "ax_trials", ["study_id", "finished"])
    create_table(
        "ax_artifacts",
        sa.Column("id", sa.String(36), primary_key=True),
        *_needed(SHA256, "sha256"),
        *_needed(sa.BigInteger, "size_bytes"),
        *_needed(BLOB, "data"),
        _created(),
    )
    create_table(
        "ax_exports",
        sa.Column("id", sa.Integer, primary_key=True),
        *_needed(sa.String(200), "study"),
        *_needed(sa.Integer, "trial"),
        sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), nullable=False),
        *_needed(sa.String(16), "format"),
        *_needed(TEXT, "path"),
        *_needed(SHA256, "sha256"),
        _created(),
    )


def _rebuild_studies(known: "_Known") -> None:
    rebuild(
        "ax_studies",
        [
            sa.Column("name", sa.String(200), primary_key=True),
            sa.Column("study_id", sa.Integer, nullable=True, index=True),
            sa.Column("model", SHA256, sa.ForeignKey("ax_models.fingerprint"), nullable=True),
            sa.Column("task", SHA256, sa.ForeignKey("ax_tasks.fingerprint"), nullable=True),
            sa.Column("machine", MACHINE, sa.ForeignKey("ax_machines.name"), nullable=True),
            *_needed(sa.String(64), "objectives"),
            *_needed(sa.JSON, "spec"),
            *_optional(sa.Integer, "trials"),
            *_optional(sa.JSON, "settings"),
            _created(),
        ],
        known.add_studies,
        new="study_id",
    )


def _rebuild_evaluations() -> None:
    key = "model, recipe, split, dtype, metric"
    kept = "split_name, value, low, high, examples, statistic, outcome, losses, created"
    rebuild(
        "ax_evaluations",
        [
            sa.Column("model", SHA256, primary_key=True),
            sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), primary_key=True),
            sa.Column("split", SHA256, primary_key=True),
            sa.Column("dtype", sa.String(16), primary_key=True),
            sa.Column("metric", sa.String(32), primary_key=True),
            sa.Column("stage", sa.String(24), primary_key=True),
            *_needed(sa.String(16), "split_name"),
            *_needed(sa.Double, "value", "low", "high"),
            *_needed(sa.Integer, "examples"),
            *_needed(sa.String(32), "statistic"),
            *_needed(BLOB, "outcome"),
            *_optional(BLOB, "losses"),
            _created(),
        ],
        lambda: op.execute(
            f"INSERT INTO ax_evaluations ({key}, stage, {kept})"
            f" SELECT {key}, 'whole', {kept} FROM old_ax_evaluations"
        ),
        new="stage",
    )


def _rebuild_latencies() -> None:
    kept = (
        "model, recipe, workload, machine, scenario, model_ms, base_ms, ratio, low, high, pairs, "
        "created"
    )
    rebuild(
        "ax_latencies",
        [
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("model", SHA256, nullable=False, index=True),
            sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), index=True),
            *_optional(sa.String(200), "entry"),
            *_needed(SHA256, "workload"),
            sa.Column("machine", MACHINE, sa.ForeignKey("ax_machines.name"), nullable=False),
            *_needed(sa.JSON, "scenario"),
            *_optional(sa.Double, "model_ms", "base_ms"),
            *_needed(sa.Double, "ratio"),
            *_optional(sa.Double, "low", "high"),
            *_needed(sa.Integer, "pairs"),
            _created(),
        ],
        lambda: op.execute(
            f"INSERT INTO ax_latencies ({kept}) SELECT {kept} FROM old_ax_latencies ORDER BY id"
        ),
        new="entry",
        indexes=["ix_ax_latencies_model"],
    )


class _Known:
    """What an older version kept, put into the new tables."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.tables = sa.MetaData()
        self.tables.reflect(connection)
        old = sa.table(
            "old_ax_studies" if has_table("old_ax_studies") else "ax_studies",
            sa.column("name", sa.String),
            sa.column("spec", sa.JSON),
            sa.column("created", sa.DateTime(timezone=True)),
        )
        self.studies = connection.execute(sa.select(old)).all()
        self.created = datetime.now(UTC)
        machines = {spec.get("machine") for _, spec, _ in self.studies}
        for table in filter(has_table, ("ax_latencies", "old_ax_latencies")):
            machines |= self._all("machine", table)
        for name in sorted(machines - {None} - self._all("name", "ax_machines")):
            self._insert("ax_machines", name=name, created=self.created)
        # A database of axsearch's tables alone has no trials.
        self.trials = "trials" in self.tables.tables
        self.ids: dict[str, int] = {}
        if self.trials:
            rows = connection.execute(sa.text("SELECT study_name, study_id FROM studies")).all()
            self.ids = {row.study_name: row.study_id for row in rows}

    def _all(self, column: str, table: str) -> set[Any]:
        return set(
            self.connection.execute(
                sa.select(sa.column(column)).select_from(sa.table(table))
            ).scalars()
        )

    def _insert(self, table: str, **values: Any) -> None:
        self.connection.execute(self._of(table).insert().values(**values))

    def _of(self, table: str) -> sa.Table:
        # MariaDB reflects a column of JSON as one of text.
        stated = [sa.Column("spec", sa.JSON)] if table == "ax_studies" else []
        return sa.Table(table, sa.MetaData(), *stated, autoload_with=self.connection)

    def add_studies(self) -> None:
        models = self._all("fingerprint", "ax_models")
        tasks = self._all("fingerprint", "ax_tasks")
        for name, spec, created in self.studies:
            model, splits = spec["model_fingerprint"], spec["splits"]
            if model not in models:
                self._insert(
                    "ax_models", fingerprint=model, name=spec["model"][-500:], created=created
                )
                models.add(model)
            of = [spec["task"], spec["metric"], *(splits[s] for s in sorted(splits))]
            task = hashlib.sha256(" ".join(map(str, of)).encode()).hexdigest()
            if task not in tasks:
                self._insert(
                    "ax_tasks",
                    fingerprint=task,
                    kind=spec["task"] or "",
                    metric=spec["metric"],
                    data=spec["data"][-500:],
                    calibration=splits["calibration"],
                    search=splits["search"],
                    holdout=splits["holdout"],
                    created=created,
                )
                tasks.add(task)
            self._insert(
                "ax_studies",
                name=name,
                study_id=self.ids.get(name),
                model=model,
                task=task,
                machine=spec.get("machine"),
                objectives=",".join(spec["objectives"]),
                spec=spec,
                created=created,
            )

    def add_trials(self) -> None:
        self.connection.execute(self._of("ax_trials").delete())  # of an earlier attempt
        for name, spec, _ in self.studies:
            if name in self.ids:
                self._add_trials(self.ids[name], spec)

    def _add_trials(self, study: int, spec: Mapping[str, Any]) -> None:
        trials, user = self.tables.tables["trials"], self._attrs("trial_user_attributes", study)
        system = self._attrs("trial_system_attributes", study)
        ended = sa.select(
            trials.c.trial_id, trials.c.state, trials.c.datetime_start, trials.c.datetime_complete
        ).where(trials.c.study_id == study, trials.c.state.in_(("COMPLETE", "PRUNED")))
        recipes = set(self.connection.execute(sa.text("SELECT hash FROM ax_recipes")).scalars())
        seen: set[str] = set()
        rows = []
        for trial, state, start, end in self.connection.execute(ended.order_by(trials.c.number)):
            recipe = user.get((trial, "recipe"))
            if recipe is None or recipe not in recipes or recipe in seen:
                continue
            seen.add(recipe)
            found = user.get((trial, "measurement"), {}) if state == "COMPLETE" else {}
            limits = system.get((trial, "constraints"), [])
            rows.append({
                "study_id": study,
                "recipe": recipe,
                "trial_id": trial,
                "attempt": 1,
                "finished": True,
                "feasible": bool(found) and all(excess <= 1e-12 for excess in limits),
                "latency": found.get("latency_ratio") if "latency" in spec["objectives"] else None,
                "size": found.get("size_ratio") if "size" in spec["objectives"] else None,
                "seconds": (end - start).total_seconds() if start and end else None,
                **{column: found.get(column) for column in (
                    "accuracy", "accuracy_low", "accuracy_high", "latency_ratio", "size_ratio",
                    "size_bytes", "parameters",
                )},
            })  # fmt: skip
        if rows:
            self.connection.execute(self._of("ax_trials").insert(), rows)

    def _attrs(self, table: str, study: int) -> dict[tuple[int, str], Any]:
        attrs, trials = self.tables.tables[table], self.tables.tables["trials"]
        wanted = (
            sa.select(attrs.c.trial_id, attrs.c.key, attrs.c.value_json)
            .join(trials, trials.c.trial_id == attrs.c.trial_id)
            .where(
                trials.c.study_id == study,
                attrs.c.key.in_(("recipe", "measurement", "constraints")),
            )
        )
        return {(t, key): json.loads(text) for t, key, text in self.connection.execute(wanted)}
