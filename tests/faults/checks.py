"""What a value in a JSON document may be, told apart as strictly as JSON does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e308


def whole(least: int) -> Check:
    return lambda value: type(value) is int and value >= least


def positive(value: Any) -> bool:
    return number(value) and value > 0


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def map_of(check: Check) -> Check:
    return lambda value: (
        isinstance(value, dict) and all(text(key) and check(item) for key, item in value.items())
    )
