"""What pytest does before and after it collects the tests; fixtures are in common_fixtures.py."""

from __future__ import annotations

import gc

import hypothesis  # noqa: F401 - after gc.freeze it would not find who refers to what
import pytest

SLOW = ("cli/test_workers.py", "faults/test_events.py", "test_benchmarks.py")
"""Modules whose tests take up to a minute each."""

gc.disable()  # until all is imported, of which next to nothing is garbage


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, and torch with them, where tests run: not in xdist's controller."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("tests.common_fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that none is left for one process alone in the end."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(SLOW))


def pytest_collection_finish() -> None:
    """To look through all that is imported for garbage would take two seconds each time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
