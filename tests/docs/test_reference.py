"""docs/reference is what docs/make_reference.py writes from the code as it is."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

import axsearch
from axsearch import discovery
from axsearch.reporting import figures
from tests.docs.pages import DOCS

UPDATE = "run `.venv/bin/python docs/make_reference.py` and commit what it writes"
WRITTEN: dict[Path, str] = runpy.run_path(str(DOCS / "make_reference.py"))["pages"]()


@pytest.mark.parametrize("page", sorted(WRITTEN), ids=lambda page: page.name)
def test_a_page_is_what_the_code_says_now(page: Path) -> None:
    assert page.is_file(), UPDATE
    assert page.read_text(encoding="utf-8") == WRITTEN[page], f"{page.name} is old: {UPDATE}"


def test_nothing_else_is_there() -> None:
    assert set((DOCS / "reference").iterdir()) == set(WRITTEN)


def test_all_public_names_figures_and_commands_are_described() -> None:
    python, commands = WRITTEN[DOCS / "reference" / "python.md"], os.fspath(DOCS)
    for name in axsearch.__all__:
        assert f"\n## {name}\n" in python
    for module in discovery.modules(figures):
        if hasattr(module, "of_study"):
            assert f"\n### {module.__name__}." in python
    commands = WRITTEN[DOCS / "reference" / "command-line.md"]
    for command in ("finetune", "search", "front", "pick", "explain", "export", "verify"):
        assert f"\n## `axsearch {command}`\n" in commands


def test_no_sentence_of_a_docstring_is_lost_in_markup() -> None:
    python = WRITTEN[DOCS / "reference" / "python.md"]
    for leftover in (":func:", ":meth:", ":class:", ":attr:", "``x", "doctest", " object at 0x"):
        assert leftover not in python
