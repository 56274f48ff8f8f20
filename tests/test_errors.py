"""Errors are one line, whatever they quote."""

from __future__ import annotations

import pytest

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
