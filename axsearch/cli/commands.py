"""The commands: the modules of this folder that have a function of their own name.

A module is imported when its command is run or its help is asked for. Until then only its source is
parsed: importing a command's dependencies takes a second, which listing the commands should not.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperGroup

from axsearch.cli.options import as_command

PACKAGE = "axsearch.cli"


class Commands(Mapping[str, Any]):
    """Every command by name; one is made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    @cached_property
    def summaries(self) -> dict[str, str]:
        """The first line of each command's help, by its name, in alphabetical order."""
        package = importlib.import_module(PACKAGE)
        names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
        found = {name: _summary(name) for name in names}
        return {name: summary for name, summary in found.items() if summary is not None}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in self.summaries:
                raise KeyError(name)
            module = _imported(f"{PACKAGE}.{name}")
            app = typer.Typer(
                add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
            )
            app.command(name)(as_command(getattr(module, name)))
            self._made[name] = typer.main.get_command(app)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.summaries)

    def __len__(self) -> int:
        return len(self.summaries)


class Group(TyperGroup):
    """All commands, listed without importing them."""

    def __init__(self, **given: Any) -> None:
        self._all = Commands()
        super().__init__(**{**given, "commands": self._all})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._all.summaries.items()))


def _imported(name: str) -> ModuleType:
    """A module; what it imports stays, so that is never looked through for garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if collects:
            gc.freeze()
            gc.enable()


def _summary(name: str) -> str | None:
    """The first line of a command's docstring; None for a module that is no command."""
    spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
    assert spec is not None
    assert spec.loader is not None
    source = spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    for member in ast.parse(source).body:
        if isinstance(member, ast.FunctionDef) and member.name == name:
            return (ast.get_docstring(member) or "").partition("\n")[0]
    return None
