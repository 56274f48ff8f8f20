"""Modules and functions stay short enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import axsearch

ROOT = Path(axsearch.__file__).parent
MOST_OF_A_MODULE, MOST_OF_A_FUNCTION = 400, 60
"""Lines of a file, and lines from ``def`` to the last line of the body, the docstring included."""

MIGRATIONS = "store/migrations/"  # history, which is not rewritten


def lengths(source: str) -> tuple[int, list[tuple[str, int]]]:
    """The lines of a module, and of each function in it, methods and inner ones included."""
    functions = [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return len(source.splitlines()), functions


def test_no_module_and_no_function_is_too_long() -> None:
    sources = {
        name: path.read_text(encoding="utf-8")
        for path in sorted(ROOT.rglob("*.py"))
        if not (name := path.relative_to(ROOT).as_posix()).startswith(MIGRATIONS)
    }
    assert len(sources) > 100
    found = {name: lengths(source) for name, source in sources.items()}
    assert {name: lines for name, (lines, _) in found.items() if lines > MOST_OF_A_MODULE} == {}
    assert {
        f"{name}:{function}": lines
        for name, (_, functions) in found.items()
        for function, lines in functions
        if lines > MOST_OF_A_FUNCTION
    } == {}


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_lines_are_counted_from_def_to_the_last(kind: str) -> None:
    source = f'import x\n\n@x\n{kind} one():\n    """A\n    text."""\n    def two(): ...\n\n\n'
    assert lengths(source) == (9, [("one", 4), ("two", 1)])
