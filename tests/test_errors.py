"""Errors are one line, whatever they quote."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import axsearch
from axsearch.cli.commands import Commands
from axsearch.errors import LONGEST, AxsearchError, UsageError, one_line


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("The file 日本.csv holds no rows.", "The file 日本.csv holds no rows."),
        ("it has a\nb, c\r\nd.", r"it has a\nb, c\r\nd."),
        ("\x1b[31mred\0.", r"\x1b[31mred\x00."),
        ("half \ud800 and \u2028.", r"half \ud800 and \u2028."),
    ],
)
def test_what_breaks_a_line_is_written_as_python_writes_it(message: str, shown: str) -> None:
    assert one_line(message) == shown
    for kind in (AxsearchError, UsageError):
        assert str(kind(message)) == shown


def test_a_huge_message_keeps_its_ends() -> None:
    message = f"The label {'x' * 10**6} is not known; choose another."
    shown = str(UsageError(message))
    assert len(shown) <= LONGEST
    assert shown.startswith("The label xxx")
    assert shown.endswith("xxx is not known; choose another.")


def sentences() -> Iterator[tuple[str, int, str]]:
    """What the library raises: file, line and the constant parts of each message."""
    root = Path(axsearch.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.is_relative_to(root / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                parts = (
                    part.value
                    for part in ast.walk(node.exc)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
                yield str(path.relative_to(root)), node.lineno, " ".join(parts)


def test_the_library_speaks_of_arguments_and_not_of_options() -> None:
    found = list(sentences())
    assert len(found) > 100
    # A command is quoted as a whole, with its options.
    outside = [(where, line, re.sub(r"`axsearch [^`]*`", "", text)) for where, line, text in found]
    assert not [one for one in outside if re.search(r"(?<![\w-])--[a-z]", one[2])]


def test_arguments_that_are_named_are_options_of_a_command() -> None:
    commands = Commands()
    names = {option.name for one in commands.values() for option in one.params}
    named = {name for _, _, text in sentences() for name in re.findall(r"`(\w+)[=`]", text)}
    assert named <= names
    assert {"max_drop", "out", "epsilon", "task", "password"} <= named
