"""What is kept within a number of bytes, and how many bytes that may be."""

from __future__ import annotations

import random
from collections import OrderedDict
from types import SimpleNamespace

import pytest

from axsearch.system import memory
from axsearch.system.memory import RecentlyUsed, budget


def test_what_was_used_last_stays() -> None:
    kept: RecentlyUsed[str, int] = RecentlyUsed(30)
    for number, key in enumerate("abc"):
        kept.put(key, number, 10)
    assert kept.get("a") == 0  # used again: "b" is now the one to go
    kept.put("d", 3, 10)
    assert [kept.get(key) for key in "abcd"] == [0, None, 2, 3]
    assert (len(kept), kept.held) == (3, 30)


def test_as_many_go_as_room_is_needed_for() -> None:
    kept: RecentlyUsed[str, int] = RecentlyUsed(30)
    for number, key in enumerate("abc"):
        kept.put(key, number, 10)
    kept.put("d", 3, 11)
    assert [kept.get(key) for key in "abcd"] == [None, None, 2, 3]
    assert kept.held == 21


def test_what_is_too_large_is_not_kept_and_takes_nothing_away() -> None:
    kept: RecentlyUsed[str, int] = RecentlyUsed(30)
    kept.put("a", 0, 30)
    kept.put("b", 1, 31)
    assert (kept.get("a"), kept.get("b"), kept.held) == (0, None, 30)
    kept.put("a", 2, 31)  # the old value is no longer true
    assert (kept.get("a"), kept.held, len(kept)) == (None, 0, 0)


def test_a_value_is_replaced_and_counted_once() -> None:
    kept: RecentlyUsed[str, int] = RecentlyUsed(30)
    kept.put("a", 0, 20)
    kept.put("a", 1, 5)
    assert (kept.get("a"), kept.held, len(kept)) == (1, 5, 1)


def test_nothing_is_kept_without_room() -> None:
    kept: RecentlyUsed[str, int] = RecentlyUsed(0)
    kept.put("a", 0, 1)
    assert (kept.get("a"), kept.held) == (None, 0)


@pytest.mark.parametrize("seed", range(5))
def test_against_a_plain_list(seed: int) -> None:
    draw, most = random.Random(seed), 50
    kept: RecentlyUsed[int, int] = RecentlyUsed(most)
    plain: OrderedDict[int, tuple[int, int]] = OrderedDict()  # the one used last is last
    for value in range(500):
        key = draw.randrange(12)
        if draw.random() < 0.5:
            found = plain.pop(key, None)
            if found is not None:
                plain[key] = found
            assert kept.get(key) == (None if found is None else found[0])
        else:
            size = draw.randint(1, 60)
            plain.pop(key, None)
            if size <= most:
                plain[key] = (value, size)
                while sum(own for _, own in plain.values()) > most:
                    plain.popitem(last=False)
            kept.put(key, value, size)
        assert kept.held == sum(own for _, own in plain.values()) <= most
        assert len(kept) == len(plain)


@pytest.mark.parametrize(("free", "wanted"), [(1 << 30, 1 << 28), (1 << 40, 2 << 30), (0, 0)])
def test_budget(free: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(available=free)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: found)
    assert budget() == wanted
    assert budget(share=1 / 16, most=1 << 20) == min(free // 16, 1 << 20)
    assert budget(free=4000) == 1000
