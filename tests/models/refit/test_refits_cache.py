"""Refitted weights in the user's cache are those of their recipe, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.models.refit import refits_cache
from axsearch.models.refit.refits_cache import RefitFiles
from axsearch.space.recipe import Recipe
from tests.common_fixtures import fill

ATTENTION, FFN = SiteId(0, "attention"), SiteId(11, "ffn")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "axsearch" / "refits"


def recipe(*kept: int, way: str = "sequential") -> Recipe:
    return Recipe.of({FFN: {"ffn": Kept(of=8, kept=kept)}}, way)  # type: ignore[arg-type]


def some(seed: int) -> dict[SiteId, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return {
        ATTENTION: {"output.dense.weight": torch.randn(8, 4, generator=draw)},
        FFN: {"dense.weight": torch.randn(4, 8, generator=draw).T, "dense.bias": torch.zeros(4)},
    }


def equal(first: object, second: dict[SiteId, dict[str, Tensor]]) -> bool:
    return isinstance(first, dict) and all(
        first[site].keys() == own.keys()
        and all(torch.equal(first[site][name], tensor) for name, tensor in own.items())
        for site, own in second.items()
    )


def test_what_was_written_is_read_for_its_recipe_and_key_alone() -> None:
    files = RefitFiles(["model", "examples"])
    assert files.read(recipe(1, 2), CPU) is None
    files.write(recipe(1, 2), some(1))
    files.write(recipe(1, 3), some(2))
    files.write(recipe(4), {})
    assert equal(RefitFiles(["model", "examples"]).read(recipe(1, 2), CPU), some(1))
    assert equal(files.read(recipe(1, 3), CPU), some(2))
    assert files.read(recipe(4), CPU) == {}
    assert files.read(recipe(1, 2, way="least_squares"), CPU) is None
    assert RefitFiles(["model", "others"]).read(recipe(1, 2), CPU) is None


def test_other_code_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    RefitFiles(["model"]).write(recipe(1), some(1))
    monkeypatch.setattr(refits_cache, "MADE_BY", refits_cache.MADE_BY[1:])
    assert RefitFiles(["model"]).read(recipe(1), CPU) is None


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_none(folder: Path, kept: float) -> None:
    files = RefitFiles(["model"])
    files.write(recipe(1), some(1))
    (file,) = folder.glob("*.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    assert files.read(recipe(1), CPU) is None
    files.write(recipe(1), some(1))
    assert equal(files.read(recipe(1), CPU), some(1))


def test_those_used_last_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RefitFiles(["model"]).write(recipe(1), some(1))
    (file,) = folder.glob("*.safetensors")
    monkeypatch.setattr(refits_cache, "MOST_BYTES", 2 * file.stat().st_size)
    files = RefitFiles(["model"])
    files.write(recipe(2), some(2))
    files.read(recipe(1), CPU)
    files.write(recipe(3), some(3))
    assert len([*folder.glob("*.safetensors")]) == 2
    assert files.read(recipe(2), CPU) is None
    assert equal(files.read(recipe(1), CPU), some(1))
    assert equal(files.read(recipe(3), CPU), some(3))


def test_a_full_disk_or_no_folder_is_no_obstacle(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    files = RefitFiles(["model"])
    files.write(recipe(1), some(1))
    fill(small_disk, 0)
    files.write(recipe(2), some(2))
    assert files.read(recipe(2), CPU) is None
    assert equal(files.read(recipe(1), CPU), some(1))
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    files.write(recipe(1), some(1))
    assert files.read(recipe(1), CPU) is None
