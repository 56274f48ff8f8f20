"""How faults are looked for, and what an error must read like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

from axsearch.errors import AxsearchError


def fuzz(examples: int) -> Callable[[Any], Any]:
    """The same examples every time, however slow the machine."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def sentence(error: AxsearchError) -> str:
    """The message of an error, which must be one line that says something."""
    text = str(error)
    assert text.isprintable()
    assert text.endswith(".")
    assert 10 < len(text) <= 2000
    for foreign in ("Traceback", "pydantic", "pyarrow", "Error(", "Value error", "object at 0x"):
        assert foreign not in text
    return text
