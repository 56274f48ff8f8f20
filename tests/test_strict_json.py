"""JSON that Python reads but that does not mean one thing."""

from __future__ import annotations

import pytest

from axsearch.strict_json import loads


def test_json_is_read() -> None:
    text = ' {"a": [1, -2.5, 1e3, "\\u00e9", null, true], "b": {"a": {}}} \n'
    assert loads(text) == {"a": [1, -2.5, 1000.0, "é", None, True], "b": {"a": {}}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "it has the key 'a' twice"),
        ('[{"b": {"a": 1, "a": null}}]', "it has the key 'a' twice"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[" * 100_000, "it is nested too deeply"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
    ],
)
def test_what_is_not_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        loads(text)
