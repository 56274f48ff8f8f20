"""Extension by adding one file or folder: find what the modules of a package define."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Import and yield every module that lies directly in a package, by name."""
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        yield importlib.import_module(f"{package.__name__}.{info.name}")


def halves(package: ModuleType, name: str) -> Iterator[ModuleType]:
    """Import and yield the module ``name`` of every folder in a package that has one."""
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        full = f"{package.__name__}.{info.name}.{name}"
        if info.ispkg and importlib.util.find_spec(full) is not None:
            yield importlib.import_module(full)


def classes(package: ModuleType, base: type[T]) -> Iterator[type[T]]:
    """Yield the concrete subclasses of ``base`` defined in the modules of a package."""
    for module in modules(package):
        yield from members(module, base)


def members(module: ModuleType, base: type[T]) -> Iterator[type[T]]:
    """Yield the concrete subclasses of ``base`` that a module defines."""
    for _, member in inspect.getmembers(module, inspect.isclass):
        if (
            issubclass(member, base)
            and member is not base
            and not inspect.isabstract(member)
            and member.__module__ == module.__name__
        ):
            yield member
