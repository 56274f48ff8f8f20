"""Heartbeats are times with a zone; every study has an identity beside its number."""

import json
import secrets

import sqlalchemy as sa
from alembic import op

from axsearch.store.migrations.repeatable import has_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Optuna's column is a local time without a zone, which is ambiguous for an hour a year. With these
# types the same statements, a worker's of an earlier version too, write and read moments. What is
# there is taken as of the session's zone, in which it was written. SQLite's now() is UTC.
HEARTBEAT = {
    "postgresql": "ALTER COLUMN heartbeat TYPE timestamp with time zone",
    "mysql": "MODIFY heartbeat TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP",
    "mariadb": "MODIFY heartbeat TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP",
}


def upgrade() -> None:
    if not has_table("trial_heartbeats"):  # axsearch's tables alone
        return
    change = HEARTBEAT.get(op.get_bind().dialect.name)
    if change is not None:
        op.execute(f"ALTER TABLE trial_heartbeats {change}")
    _identify()


def _identify() -> None:
    studies = sa.table("studies", sa.column("study_id", sa.Integer))
    attrs = sa.table(
        "study_system_attributes",
        sa.column("study_id", sa.Integer),
        sa.column("key", sa.String),
        sa.column("value_json", sa.Text),
    )
    key, connection = "axsearch:identity", op.get_bind()
    known = sa.select(attrs.c.study_id).where(attrs.c.key == key)
    missing = sa.select(studies.c.study_id).where(studies.c.study_id.not_in(known))
    for study_id in connection.execute(missing).scalars().all():
        identity = json.dumps(secrets.token_hex(16))
        row = {"study_id": study_id, "key": key, "value_json": identity}
        connection.execute(attrs.insert().values(row))
