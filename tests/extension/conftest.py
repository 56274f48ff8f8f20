"""Folders and files that are dropped into the packages' paths, and taken out again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from axsearch.approximations import approximations as found
from axsearch.approximations import choice_types, recorded
from axsearch.models.architectures import architectures as families
from axsearch.runtimes import runtimes

Drop = Callable[[ModuleType, dict[str, str]], None]
"""Writes files, by their path, into a folder that is added to the path of a package."""

CACHES = (found, recorded, choice_types, families, runtimes)


def forget() -> None:
    for cache in CACHES:
        cache.cache_clear()


@pytest.fixture(scope="module")
def drop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drop]:
    dropped: list[tuple[ModuleType, str]] = []

    def into(package: ModuleType, files: dict[str, str]) -> None:
        folder = tmp_path_factory.mktemp("dropped")
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        package.__path__.append(str(folder))
        dropped.append((package, str(folder)))
        importlib.invalidate_caches()
        forget()

    yield into
    for package, folder in dropped:
        package.__path__.remove(folder)
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(folder):
                del sys.modules[name]
                parent, _, leaf = name.rpartition(".")
                if parent in sys.modules and hasattr(sys.modules[parent], leaf):
                    delattr(sys.modules[parent], leaf)
    forget()
