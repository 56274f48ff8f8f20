"""Private names of a library: whether they are as they were, and who uses them.

All private names of a library stand in one module (``store/optuna_internals.py``), and its test
lists what each of them is expected to be. Where a new version of the library has changed one, the
test reports its name and the places that use it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Enum, Table

import axsearch

ROOT = Path(axsearch.__file__).parent


@dataclass(frozen=True)
class Expected:
    """What a private name was when the code that uses it was written.

    Attributes:
        form: as :func:`form_of` describes it: parameters, columns or a type.
        alias: the name under which other modules use it.
    """

    form: str
    alias: str


def changes(expected: Mapping[str, Expected], examples: Mapping[str, object]) -> list[str]:
    """One sentence for each name that is not as expected.

    Args:
        expected: by the name: ``package.module:Name.attribute``, or ``Example.attribute`` where
            only objects have it.
        examples: such objects.
    """
    found = {name: _form(name, examples) for name in expected}
    return [
        f"{name} was ({known.form}) and is {found[name]}; "
        f"it is used as {known.alias} by {', '.join(users(known.alias))}"
        for name, known in expected.items()
        if found[name] != f"({known.form})"
    ]


def _form(name: str, examples: Mapping[str, object]) -> str:
    module, _, path = name.rpartition(":")
    try:
        if module:
            found: Any = importlib.import_module(module)
        else:
            example, _, path = path.partition(".")
            found = examples[example]
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return "no longer there"
    return f"({form_of(found)})"


def form_of(found: Any) -> str:
    """A table's columns, a function's parameters, or the name of another object's type."""
    table = getattr(found, "__table__", None)
    if isinstance(table, Table):
        return ", ".join(_column(column) for column in table.columns)
    if inspect.isroutine(found):
        parameters = inspect.signature(found).parameters.values()
        bare = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
        return str(inspect.Signature(bare))[1:-1]
    return type(found).__name__


def _column(column: Any) -> str:
    kind = column.type
    said = f"of {'/'.join(kind.enums)}" if isinstance(kind, Enum) else str(kind)
    needed = "" if column.nullable or column.default is not None else " NOT NULL"
    return f"{column.name} {said}{needed}"


def users(alias: str) -> Iterator[str]:
    """Where axsearch uses a name, or overrides or calls a method of it: paths with lines."""
    for path, tree in trees().items():
        lines = {
            node.lineno
            for node in ast.walk(tree)
            if (isinstance(node, ast.Name) and node.id == alias)
            or (isinstance(node, ast.Attribute) and node.attr == alias and _is_self(node.value))
        }
        yield from (f"axsearch/{path}:{line}" for line in sorted(lines))


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each module of axsearch, by its path."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in sorted(ROOT.rglob("*.py"))
    }


def used_in(tree: ast.Module, package: str) -> set[str]:
    """The private names of a package that a module names: parts of imports and attributes."""
    defined = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    found = set(imported(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            found.add(node.attr)
    return found - defined


def private_uses(
    tree: ast.Module,
    packages: tuple[str, ...],
    of_objects: set[str],
    of_classes: Mapping[str, set[str]],
) -> Iterator[str]:
    """Each use of a private name of a library in a module, with its line.

    Args:
        tree: the module.
        packages: of the library.
        of_objects: the private names that its objects have.
        of_classes: for each of our classes that inherit from one of the library's, the private
            names of that.
    """
    for package in packages:
        for name in imported(tree, package):
            yield f"{name} is imported"
    inherited = {
        part: of_classes[node.name]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name in of_classes
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in inherited.get(node, ()):
            yield f"{node.name} is overridden in line {node.lineno}"
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        theirs = inherited.get(node, set()) if _is_self(node.value) else of_objects
        if node.attr in theirs or _root(node) in packages:
            yield f"{node.attr} is used in line {node.lineno}"


def private_names(found: object) -> set[str]:
    """The private names of an object or class, with those of its instance variables."""
    return {name for name in (*dir(found), *getattr(found, "__dict__", ())) if is_private(name)}


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The private names in the imports from a package."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == package:
                yield from filter(is_private, name.split("."))


def _is_self(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        value = value.func
    return isinstance(value, ast.Name) and value.id in ("self", "cls", "super")


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
