"""An evaluation keeps the loss of each feature, for AxFormer's rule and for models of accuracy."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("ax_evaluations") as table:
        table.add_column(sa.Column("losses", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("ax_evaluations") as table:
        table.drop_column("losses")
