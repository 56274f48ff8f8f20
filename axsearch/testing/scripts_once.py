"""Opening many databases in little time.

Opening a database runs all files of Optuna's migrations and of ours to find the newest of each,
which takes most of the time of a test that opens several.
"""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory
from optuna.storages import RDBStorage

from axsearch.store.database import migrations


def read_scripts_once() -> None:
    """From here on, this process and those forked from it read each folder of migrations once."""
    read = ScriptDirectory.from_config
    known: dict[str | None, ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        folder = config.get_main_option("script_location")
        if folder not in known:
            known[folder] = read(config)
        return known[folder]

    ScriptDirectory.from_config = from_config  # type: ignore[method-assign]
    from_config(migrations()).get_current_head()
    RDBStorage("sqlite://").engine.dispose()
