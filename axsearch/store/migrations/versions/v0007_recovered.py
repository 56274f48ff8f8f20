"""Trained weights; recovered models are trials, of which it is known whose model was recovered."""

import sqlalchemy as sa
from alembic import op

from axsearch.store.migrations.repeatable import add_column, create_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SHA256 = sa.String(64)

# As in revision 0004, with one column more, which must be the last: see _replace_front.
FRONT = """
VIEW ax_front AS
SELECT studies.study_name AS study, trials.number AS trial, a.recipe,
       a.accuracy, a.accuracy_low, a.accuracy_high, a.latency_ratio, a.size_ratio,
       a.size_bytes, a.parameters, a.study_id, a.trial_id, a.recovered_from
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


def upgrade() -> None:
    create_table(
        "ax_weights",
        sa.Column("key", SHA256, primary_key=True),
        sa.Column("recipe", SHA256, sa.ForeignKey("ax_recipes.hash"), nullable=False),
        sa.Column("artifact", sa.String(200), nullable=False),
        sa.Column("sha256", SHA256, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("made", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    add_column("ax_trials", sa.Column("recovered_from", sa.Integer, nullable=True))
    _replace_front()


def _replace_front() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP VIEW IF EXISTS ax_front")
        op.execute(f"CREATE {FRONT}")
    else:
        # People's own views may read from it, and rights to it were granted: it is not dropped.
        op.execute(f"CREATE OR REPLACE {FRONT}")
