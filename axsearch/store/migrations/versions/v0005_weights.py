"""Accuracies, latencies and exports are those of a recipe and of the weights that it was given."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

from axsearch.store.migrations.repeatable import add_column, rebuild

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SHA256 = sa.String(64)
BLOB = sa.LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")


def _weights(*, key: bool = False) -> sa.Column[str]:
    # "" is what all earlier versions measured: the base's own tensors, with the closed-form
    # compensation that the recipe names. As the server's default it is also what a worker of an
    # earlier version writes that still runs.
    return sa.Column("weights", SHA256, nullable=False, server_default="", primary_key=key)


def upgrade() -> None:
    for table in ("ax_latencies", "ax_exports"):
        add_column(table, _weights())
    _rebuild_evaluations()


def _rebuild_evaluations() -> None:
    # SQLite cannot change a primary key.
    kept = (
        "model, recipe, split, dtype, metric, stage, split_name, value, low, high, examples, "
        "statistic, outcome, losses, created"
    )
    rebuild(
        "ax_evaluations",
        [
            sa.Column("model", SHA256, primary_key=True),
            sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), primary_key=True),
            _weights(key=True),
            sa.Column("split", SHA256, primary_key=True),
            sa.Column("dtype", sa.String(16), primary_key=True),
            sa.Column("metric", sa.String(32), primary_key=True),
            sa.Column("stage", sa.String(24), primary_key=True),
            sa.Column("split_name", sa.String(16), nullable=False),
            *(sa.Column(name, sa.Double, nullable=False) for name in ("value", "low", "high")),
            sa.Column("examples", sa.Integer, nullable=False),
            sa.Column("statistic", sa.String(32), nullable=False),
            sa.Column("outcome", BLOB, nullable=False),
            sa.Column("losses", BLOB, nullable=True),
            sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        ],
        lambda: op.execute(
            f"INSERT INTO ax_evaluations ({kept}) SELECT {kept} FROM old_ax_evaluations"
        ),
        new="weights",
    )
