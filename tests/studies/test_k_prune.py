"""The rival of studies/benchmarks/k_prune.py: what it measures of units, and its budgets."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments
from axsearch.space.recipe import Recipe
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.kinds.sequences import encode
from axsearch.tasks.split import Split
from axsearch.testing.text import tiny_bert, tiny_tokenizer

BENCHMARKS = Path(__file__).parents[2] / "studies" / "benchmarks"
BASE = Base(tiny_bert())
SITES = [id for id, site in BASE.sites.items() if site.units]


@pytest.fixture(scope="module")
def k_prune() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(BENCHMARKS)
        return runpy.run_path(str(BENCHMARKS / "k_prune.py"))


def split() -> Split:
    texts = [(f"a film of {n} good and {12 - n} bad scenes",) for n in range(12)]
    inputs = encode(tiny_tokenizer(), texts, 32)
    return Split("train", inputs, np.arange(12) % 2, 0)


def test_the_energy_of_a_unit_is_that_of_what_it_adds(k_prune: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    outputs = {id: torch.randn(50, 32 if id.kind == "attention" else 64, generator=draw)
               for id in SITES}  # fmt: skip
    moments = Moments(
        {id: x.mean(0).double() for id, x in outputs.items()},
        {id: x.T.cov(correction=0) for id, x in outputs.items()},
    )
    found = k_prune["energies"](BASE, moments)
    for id, x in outputs.items():
        units = BASE.sites[id].units
        assert units is not None
        weight = BASE.state[units.output.tensor]  # (hidden, width)
        for unit in range(units.count):
            own = slice(unit * units.width, (unit + 1) * units.width)
            added = x[:, own] @ weight[:, own].T
            assert found[id][unit] == pytest.approx(added.square().sum(1).mean().item(), rel=1e-4)


def latency(recipe: Recipe) -> float:
    """As much for each block, in proportion to its units."""
    total = 0.0
    for id in SITES:
        (choice,) = recipe.at(*id).values() or [None]
        total += 1.0 if choice is None else len(choice.kept) / choice.of
    return total / len(SITES)


def test_budgets_are_kept_and_used(k_prune: dict[str, Any]) -> None:
    energy = {id: np.ones(BASE.sites[id].count) for id in SITES}
    made: list[Recipe] = []

    def shrink(recipe: Recipe) -> Any:
        made.append(recipe)
        return BASE.shrink(recipe, BASE.cut(recipe))

    found = k_prune["allocate"](
        BASE, task_kinds()["text-classification"], split(), energy, shrink, latency,
        (1.0, 0.6, 0.3), k_prune["Balance"](0.1, 1.0),
    )  # fmt: skip
    assert found[1.0] == Recipe.of({})
    for budget in (0.6, 0.3):
        assert budget - 0.13 < latency(found[budget]) <= budget  # half of an FFN, or a head
        assert found[budget].compensation == "sequential"
    assert made  # blocks above one that was cut are measured in what it left
    assert max(len(recipe.sites) for recipe in made) == len(SITES) - 1


def test_a_block_that_goes_as_a_whole_takes_nothing_with_it(k_prune: dict[str, Any]) -> None:
    """Layers of the smaller model have other numbers than the base's."""
    energy = {id: np.full(BASE.sites[id].count, float(id.layer > 0)) for id in SITES}
    (recipe,) = k_prune["allocate"](
        BASE, task_kinds()["text-classification"], split(), energy,
        lambda recipe: BASE.shrink(recipe, BASE.cut(recipe)), latency,
        (1 - 2 / len(SITES) + 1e-9,),
        k_prune["Balance"](1e6, 1.0),
    ).values()  # fmt: skip
    assert all(recipe.removed(0, kind) for kind in ("attention", "ffn"))
    assert {id.layer for id, _ in recipe.sites} == {0}
