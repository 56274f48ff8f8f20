"""An evaluation keeps the loss of each feature, for AxFormer's rule and for models of accuracy."""

import sqlalchemy as sa
from alembic import op

from axsearch.store.migrations.repeatable import add_column

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_column("ax_evaluations", sa.Column("losses", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("ax_evaluations") as table:
        table.drop_column("losses")
