"""What an error must read like."""

from __future__ import annotations

from axsearch.errors import AxsearchError


def sentence(error: AxsearchError) -> str:
    """The message of an error, which must be one line that says something."""
    text = str(error)
    assert text.isprintable()
    assert text.endswith(".")
    assert 10 < len(text) <= 2000
    for foreign in ("Traceback", "pydantic", "pyarrow", "Error(", "__", "errors.pydantic.dev"):
        assert foreign not in text
    return text
