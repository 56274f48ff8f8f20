"""Alembic's environment: run the migrations on the connection that is handed over."""

from alembic import context

from axsearch.store.access import VERSION_TABLE
from axsearch.store.models import TableBase

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=TableBase.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
