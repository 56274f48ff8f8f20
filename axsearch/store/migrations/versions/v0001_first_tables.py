"""The first tables: studies, recipes, evaluations, latencies, calibrations."""

import sqlalchemy as sa
from alembic import op

from axsearch.store.migrations.repeatable import create_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SHA256 = sa.String(64)


def _created() -> sa.Column[object]:
    return sa.Column("created", sa.DateTime(timezone=True), nullable=False)


def upgrade() -> None:
    create_table(
        "ax_studies",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        _created(),
    )
    create_table(
        "ax_recipes",
        sa.Column("hash", SHA256, primary_key=True),
        sa.Column("json", sa.Text(), nullable=False),
    )
    create_table(
        "ax_evaluations",
        sa.Column("model", SHA256, primary_key=True),
        sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), primary_key=True),
        sa.Column("split", SHA256, primary_key=True),
        sa.Column("dtype", sa.String(16), primary_key=True),
        sa.Column("metric", sa.String(32), primary_key=True),
        sa.Column("split_name", sa.String(16), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.LargeBinary(), nullable=False),
        _created(),
    )
    create_table(
        "ax_latencies",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("model", SHA256, nullable=False, index=True),
        sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), nullable=False),
        sa.Column("workload", SHA256, nullable=False),
        sa.Column("machine", sa.String(200), nullable=False),
        sa.Column("scenario", sa.JSON(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False)
          for name in ("model_ms", "base_ms", "ratio", "low", "high")),
        sa.Column("pairs", sa.Integer(), nullable=False),
        _created(),
    )  # fmt: skip
    create_table(
        "ax_calibrations",
        sa.Column("model", SHA256, primary_key=True),
        sa.Column("split", SHA256, primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("data", sa.JSON(), nullable=False),
        _created(),
    )


def downgrade() -> None:
    for table in ("calibrations", "latencies", "evaluations", "recipes", "studies"):
        op.drop_table(f"ax_{table}")
