"""Alembic's environment: run the migrations on the connection that is handed over."""

from alembic import context

from axsearch.store.models import Base

VERSION_TABLE = "ax_alembic_version"  # Optuna keeps its own in `alembic_version`

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
