"""No name of an approximation stands in code outside the folder of its approximation."""

from __future__ import annotations

import ast
from pathlib import Path

import axsearch
from axsearch.approximations import approximations

ROOT = Path(axsearch.__file__).parent
NAMES = {"heads", "ffn", "topk", "ffn_topk", "head_mask", "ffn_mask"}
EXEMPT = ("approximations", "store/migrations")


def literals(path: Path) -> list[str]:
    """Where a file has one of the names as a string constant, docstrings aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]


def test_names_of_approximations_stand_in_their_folders_only() -> None:
    files = [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(EXEMPT)
    ]
    assert len(files) > 100
    assert [found for path in files for found in literals(path)] == []


def test_the_names_are_those_of_approximations() -> None:
    assert set(approximations()) >= NAMES
    assert any(literals(path) for path in ROOT.joinpath("approximations").rglob("*.py"))
