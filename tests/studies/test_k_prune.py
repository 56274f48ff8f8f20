"""The rival of studies/benchmarks/k_prune.py: what it measures of units, and its budgets."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.models.base_model import Base
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
    sites = {id: BASE.sites[id] for id in SITES}
    found = k_prune["energies"](BASE, BASE.model, split(), sites)
    seen: dict[SiteId, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, id=id: seen.update({id: inputs[0]}))
        for id, module in BASE.gates(BASE.model).items()
    ]
    batch = split().collate(range(12))
    with torch.no_grad():
        BASE.model(**batch)
    for hook in hooks:
        hook.remove()
    for id, values in seen.items():
        x, units = values[batch["attention_mask"].bool()], BASE.sites[id].units
        assert units is not None
        weight = BASE.state[units.output.tensor]  # (hidden, width)
        for unit in range(units.count):
            own = slice(unit * units.width, (unit + 1) * units.width)
            added = x[:, own] @ weight[:, own].T
            assert found[id][unit] == pytest.approx(added.square().sum(1).mean().item(), rel=1e-4)


def test_labels_are_as_likely_as_the_base_says(k_prune: dict[str, Any]) -> None:
    (one, first), (two, second) = k_prune["weighted"](BASE, split())
    assert set(one.targets) == {0}
    assert set(two.targets) == {1}
    np.testing.assert_allclose(first + second, 1)
    with torch.no_grad():
        logits = BASE.model(**split().collate([3])).logits
    assert first[3] == pytest.approx(logits.softmax(-1)[0, 0].item(), rel=1e-4)


def latency(recipe: Recipe) -> float:
    """As much for each block, in proportion to its units."""
    total = 0.0
    for id in SITES:
        (choice,) = recipe.at(*id).values() or [None]
        total += 1.0 if choice is None else len(choice.kept) / choice.of
    return total / len(SITES)


def allocated(k_prune: dict[str, Any], budget: float, energy: float, **more: Any) -> Recipe:
    def shrink(recipe: Recipe) -> Any:
        more.get("made", []).append(recipe)
        return BASE.shrink(recipe, BASE.cut(recipe))

    (found,) = k_prune["allocate"](
        BASE, task_kinds()["text-classification"], k_prune["weighted"](BASE, split()), shrink,
        more.get("latency", latency), budget, [k_prune["Balance"](energy, 1.0)],
    )  # fmt: skip
    return found  # type: ignore[no-any-return]


def test_budgets_are_kept_and_used(k_prune: dict[str, Any]) -> None:
    assert allocated(k_prune, 1.0, 0.1) == Recipe.of({})
    for budget in (0.6, 0.3):
        made: list[Recipe] = []
        found = allocated(k_prune, budget, 0.1, made=made)
        assert budget - 0.13 < latency(found) <= budget  # half of an FFN, or a head
        assert found.compensation == "sequential"
        # Blocks above one that was cut are measured in what it left.
        assert max(len(recipe.sites) for recipe in made) == len(SITES) - 1
    assert allocated(k_prune, 0.3, 0.1, latency=lambda _: 0.5) is None


def test_a_layer_that_goes_as_a_whole_takes_no_other_with_it(k_prune: dict[str, Any]) -> None:
    """Layers of the smaller model have other numbers than the base's."""

    layer = Recipe.of({
        id: {"heads" if id.kind == "attention" else "ffn": Kept(of=BASE.sites[id].count, kept=())}
        for id in SITES if id.layer == 0
    })  # fmt: skip
    done = {id: choice for id, _, choice in layer.choices()}
    small, sites = BASE.shrink(layer, BASE.cut(layer)), {id: BASE.sites[id] for id in SITES}
    known = k_prune["measure"](
        BASE, task_kinds()["text-classification"], k_prune["weighted"](BASE, split()), small,
        done, sites,
    )  # fmt: skip
    assert set(known.energy) == set(known.divergence) == {id for id in SITES if id.layer > 0}
