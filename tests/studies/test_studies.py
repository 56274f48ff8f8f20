"""The scripts that users read and copy: short, and on public names only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import axsearch

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("studies/*.py"), *ROOT.glob("dashboards/*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_and_uses_public_names_only(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) < 80
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("axsearch"):
            assert node.module == "axsearch"
            assert {name.name for name in node.names} <= set(axsearch.__all__)
        if isinstance(node, ast.Import):
            assert not any(name.name.startswith("axsearch") for name in node.names)


def test_every_public_name_is_there() -> None:
    for name in axsearch.__all__:
        assert getattr(axsearch, name).__doc__
    with pytest.raises(AttributeError, match="nonsense"):
        axsearch.nonsense  # noqa: B018
