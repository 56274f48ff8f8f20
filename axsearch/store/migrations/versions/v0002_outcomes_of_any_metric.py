"""An evaluation keeps what each example adds to its metric, not only right or wrong."""

import io
import zlib

import numpy as np
import sqlalchemy as sa
from alembic import op

from axsearch.store.migrations.repeatable import add_column

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EVALUATIONS = sa.table(
    "ax_evaluations",
    *(sa.column(name, sa.String) for name in ("model", "recipe", "split", "dtype", "metric")),
    sa.column("examples", sa.Integer),
    sa.column("statistic", sa.String),
    sa.column("outcome", sa.LargeBinary),
)
KEY = [EVALUATIONS.c[name] for name in ("model", "recipe", "split", "dtype", "metric")]


def upgrade() -> None:
    mean = sa.Column("statistic", sa.String(32), nullable=False, server_default="mean")
    add_column("ax_evaluations", mean)
    # Right and wrong do not say what an example adds to another metric: evaluate again.
    op.execute(EVALUATIONS.delete().where(EVALUATIONS.c.metric != "accuracy"))
    connection = op.get_bind()
    rows = connection.execute(sa.select(*KEY, EVALUATIONS.c.examples, EVALUATIONS.c.outcome)).all()
    for *key, examples, outcome in rows:
        bits = np.unpackbits(np.frombuffer(outcome, np.uint8), count=examples)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, bits == 1, allow_pickle=False)
        same = sa.and_(*(column == part for column, part in zip(KEY, key, strict=True)))
        connection.execute(
            EVALUATIONS.update().where(same).values(outcome=zlib.compress(buffer.getvalue()))
        )


def downgrade() -> None:
    op.execute(EVALUATIONS.delete())  # they can be evaluated again
    with op.batch_alter_table("ax_evaluations") as table:
        table.drop_column("statistic")
