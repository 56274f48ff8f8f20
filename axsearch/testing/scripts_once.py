"""Importing this makes Alembic read each folder of migrations once a process.

Opening a database runs all files of Optuna's migrations and of ours to find the newest of each,
which takes most of the time of a test that opens several.
"""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage

from axsearch.store.database import migrations

_read = ScriptDirectory.from_config
_known: dict[str | None, ScriptDirectory] = {}


def _from_config(config: Config) -> ScriptDirectory:
    folder = config.get_main_option("script_location")
    if folder not in _known:
        _known[folder] = _read(config)
    return _known[folder]


ScriptDirectory.from_config = _from_config  # type: ignore[method-assign]
_from_config(migrations()).get_current_head()
RDBStorage("sqlite://").engine.dispose()
