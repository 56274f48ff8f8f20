"""JSON that means one thing: no key twice, no NaN, no number that a float cannot hold."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def loads(text: str) -> Any:
    """Read JSON text as :func:`json.loads` does, which takes more than the standard allows.

    Raises ValueError for anything else, for an object that has a key twice, for a number above all
    floats and for what is nested too deeply.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; raises ValueError where a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number
