"""Caches of tensors stay within a number of bytes, and how many bytes that may be."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from axsearch.system import memory
from axsearch.system.memory import TensorCache, available, budget, obtainable


def of(size: int) -> Tensor:
    """A tensor of so many bytes."""
    return torch.empty(size, dtype=torch.uint8)


def filled(maxsize: int, **sizes: int) -> TensorCache[str, Tensor]:
    cache: TensorCache[str, Tensor] = TensorCache(maxsize)
    for key, size in sizes.items():
        cache[key] = of(size)
    return cache


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (torch.empty(3, 5), 60),
        (torch.empty(3, 5, dtype=torch.bfloat16), 30),
        ((torch.empty(2, dtype=torch.float64), None, "text", torch.empty(3)), 28),
        (torch.empty(0), 0),
        (None, 0),
    ],
    ids=["float32", "bfloat16", "tuple", "empty", "none"],
)
def test_sizes_are_the_bytes_of_tensors(value: Any, size: int) -> None:
    cache: TensorCache[str, Any] = TensorCache(100)
    cache["a"] = value
    assert cache.currsize == size


def test_the_value_read_last_stays() -> None:
    cache = filled(30, a=10, b=10, c=10)
    assert cache.get("a") is not None  # "b" is now the least recently used
    cache["d"] = of(10)
    assert {*cache} == {"a", "c", "d"}
    assert cache.get("b") is None
    assert (len(cache), cache.currsize) == (3, 30)


def test_as_many_are_removed_as_room_is_needed_for() -> None:
    cache = filled(30, a=10, b=10, c=10, d=11)
    assert {*cache} == {"c", "d"}
    assert cache.currsize == 21


def test_a_value_that_is_too_large_is_not_stored_and_removes_no_other() -> None:
    cache = filled(30, a=30, b=31)
    assert ({*cache}, cache.currsize) == ({"a"}, 30)
    cache["a"] = of(31)  # the old value is no longer true
    assert (cache.get("a"), cache.currsize, len(cache)) == (None, 0, 0)


def test_a_value_is_replaced_and_counted_once() -> None:
    cache = filled(30, a=20)
    cache["a"] = new = of(5)
    assert cache.get("a") is new
    assert (cache.currsize, len(cache)) == (5, 1)


def test_nothing_is_stored_without_room() -> None:
    assert len(filled(0, a=1)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_against_a_plain_list(seed: int) -> None:
    draw, most = random.Random(seed), 50
    cache: TensorCache[int, Tensor] = TensorCache(most)
    plain: OrderedDict[int, Tensor] = OrderedDict()  # the one used last is last
    for _ in range(500):
        key = draw.randrange(12)
        if draw.random() < 0.5:
            found = plain.pop(key, None)
            if found is not None:
                plain[key] = found
            assert cache.get(key) is found
        else:
            value = of(draw.randint(1, 60))
            plain.pop(key, None)
            if len(value) <= most:
                plain[key] = value
                while sum(map(len, plain.values())) > most:
                    plain.popitem(last=False)
            cache[key] = value
        assert cache.currsize == sum(map(len, plain.values())) <= most
        assert len(cache) == len(plain)


@pytest.mark.parametrize(("free", "wanted"), [(1 << 30, 1 << 28), (1 << 40, 2 << 30), (0, 0)])
def test_budget(free: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(available=free)
    monkeypatch.setattr(memory, "OWN_GROUP", Path("/no/such/file"))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: found)
    assert budget() == wanted
    assert budget(share=1 / 16, most=1 << 20) == min(free // 16, 1 << 20)
    assert budget(free=4000) == 1000


def limited(folder: Path, most: str, used: int, files: int) -> None:
    """A control group as Linux shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")


def test_a_container_may_have_less_than_its_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = SimpleNamespace(available=9_000, total=20_000)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory.psutil, "swap_memory", lambda: SimpleNamespace(free=3_000))
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    assert (available(), obtainable()) == (9_000, 12_000)
    (tmp_path / "own").write_text("0::/pods/one\n")
    limited(tmp_path / "pods" / "one", "max", 500, 0)
    assert (available(), obtainable()) == (9_000, 12_000)
    limited(tmp_path / "pods", "10000", 2_500, 2_500)  # of which files take what is not needed
    assert (available(), obtainable()) == (9_000, 10_000)
    limited(tmp_path / "pods" / "one", "8000", 1_500, 500)
    assert (available(), obtainable()) == (7_000, 7_000)
    limited(tmp_path / "pods" / "one", "8000", 8_100, 0)
    assert (available(), obtainable(), budget()) == (0, 0, 0)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert obtainable() == 20_000
