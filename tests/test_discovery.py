"""A file in a package is found by being there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from axsearch import discovery
from axsearch.approximations import UnitRemoval

ONE = """
from axsearch.approximations.base import UnitRemoval

class Halfway(UnitRemoval):
    name, kinds, fractions = "halfway", ("ffn",), ()

class Found(UnitRemoval):
    name, kinds, fractions = "found", ("ffn",), ()

    def grain(self, site):
        return 1
"""
TWO = """
from found_by_being_there.one import Found

class Another(Found):
    name = "another"

class Unrelated:
    pass
"""


def test_concrete_classes_are_found_where_they_are_defined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "found_by_being_there"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "two.py").write_text(TWO)
    (folder / "one.py").write_text(ONE)
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("found_by_being_there")
    assert [module.__name__ for module in discovery.modules(package)] == [
        "found_by_being_there.one",
        "found_by_being_there.two",
    ]
    found = list(discovery.classes(package, UnitRemoval))  # type: ignore[type-abstract]
    assert [member.__name__ for member in found] == ["Found", "Another"]
    # What others are built on is not one of them, be it concrete.
    (base, another) = found
    assert list(discovery.classes(package, base)) == [another]
