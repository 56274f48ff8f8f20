"""No name of an approximation stands in code outside the folder of its approximation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import axsearch
from axsearch.approximations import approximations

ROOT = Path(axsearch.__file__).parent
NAMES = {  # all but `layer`, which is a word of many meanings
    "heads", "ffn", "topk", "ffn_topk", "head_mask", "ffn_mask", "topk_hard", "attention_block",
    "ffn_block",
}  # fmt: skip
EXEMPT = (
    ("approximations",),
    ("store", "migrations"),
    ("models", "architectures", "modeling"),  # modules of transformers have such names, too
    ("kernels", "native_source.py"),  # C++
)
NAME = rf"\b(?:{'|'.join(sorted(NAMES))})\b"
KEY = re.compile(rf"{NAME}|.*(?:[.=]{NAME}|{NAME}[.=]).*", re.DOTALL)
"""A name alone, or in a key such as ``layer03.heads`` or ``heads=4``: not in a sentence."""


def words(tree: ast.AST) -> set[ast.Constant]:
    """The constants that people read: docstrings, and the help of options."""
    found: set[ast.Constant] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.add(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Option":
            found |= {one for one in ast.walk(node) if isinstance(one, ast.Constant)}
    return found


def keys(source: str) -> list[tuple[int, str]]:
    """Where a source has one of the names in a constant, and the constant."""
    tree = ast.parse(source)
    read = words(tree)
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in read
        if KEY.fullmatch(node.value)
    ]


def exempt(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return any(parts[: len(place)] == place for place in EXEMPT)


def test_names_of_approximations_stand_in_their_folders_only() -> None:
    files = [path for path in sorted(ROOT.rglob("*.py")) if not exempt(path)]
    assert len(files) > 100
    found = {path: keys(path.read_text(encoding="utf-8")) for path in files}
    assert {str(path.relative_to(ROOT)): own for path, own in found.items() if own} == {}


def test_the_names_are_those_of_approximations() -> None:
    assert set(approximations()) >= NAMES
    assert all(ROOT.joinpath(*place).exists() for place in EXEMPT)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('x["heads"]', ["heads"]),
        ('f"layer{i:02d}.heads"', [".heads"]),
        ('f"attention heads={h} topk=32.hard"', ["attention heads=", " topk=32.hard"]),
        ('"of these heads the largest"', []),
        ('"""heads"""', []),
        ('x = 1\n"""About ``layer00.heads``."""', []),
        ('Option("such as layer05.ffn")', []),
        ('"overheads=1"', []),
    ],
)
def test_keys_are_found_and_sentences_are_not(source: str, found: list[str]) -> None:
    assert [text for _, text in keys(source)] == found
