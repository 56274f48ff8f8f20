"""The rival of studies/benchmarks/kwon.py: budgets, masks and times between measured ones."""

from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.models.base_model import Base
from axsearch.models.refit.sample import Sample
from axsearch.models.weights import ClosedForm, shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import padded_batch, random_model
from axsearch.testing.text import tiny_bert

BENCHMARKS = Path(__file__).parents[2] / "studies" / "benchmarks"
HEADS, NEURONS, LENGTH = 4, 64, 12.5


def load() -> Any:
    spec = importlib.util.spec_from_file_location("kwon", BENCHMARKS / "kwon.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kwon = load()
MODEL = tiny_bert()
SITES = {id: site for id, site in Base(MODEL).sites.items() if site.units}


def random_slopes(examples: int = 40) -> dict[SiteId, NDArray[np.float32]]:
    """Some units matter more than others, and some do much the same."""
    random = np.random.default_rng(0)
    found = {}
    for site_id, site in SITES.items():
        shared = random.standard_normal((examples, 3)) @ random.standard_normal(
            (3, site.units.count)
        )
        own = random.standard_normal((examples, site.units.count))
        scales = np.exp(random.standard_normal(site.units.count))
        found[site_id] = ((shared + own) * scales).astype(np.float32)
    return found


SLOPES = random_slopes()


def form(block: NDArray[Any], removed: NDArray[np.bool_]) -> float:
    return float(block.astype(np.float64)[np.ix_(removed, removed)].sum())


def costs(recipe: Recipe) -> tuple[float, float]:
    """Multiply-adds a token of the recipe's layers, and of a unit at most, by hand."""
    head, neuron = 4 * 32 * 8 + 2 * LENGTH * 8, 2 * 32
    total = 0.0
    for site_id in SITES:
        each = head if site_id.kind == "attention" else neuron
        count = HEADS if site_id.kind == "attention" else NEURONS
        for choice in recipe.at(*site_id).values():
            assert isinstance(choice, Kept)
            count = len(choice.kept)
        total += count * each
    return total, head


def test_shares_cover_the_range_evenly_whenever_one_stops() -> None:
    found = kwon.shares(200)
    assert found[:3] == pytest.approx([0.525, 0.2875, 0.7625])
    assert len(set(found)) == 200
    assert kwon.LEAST <= min(found) < 0.06
    assert 0.99 < max(found) < 1
    for count in range(1, 200):
        points = np.sort([0, *((np.array(found[:count]) - 0.05) / 0.95), 1])
        gaps = np.diff(points)
        assert gaps.max() <= 2 / (count + 1) + 1e-12
    assert kwon.shares(0) == []


def test_multiply_adds_of_a_unit() -> None:
    assert kwon.multiply_adds(SITES[SiteId(0, "attention")], LENGTH) == 4 * 32 * 8 + 2 * LENGTH * 8
    assert kwon.multiply_adds(SITES[SiteId(0, "ffn")], LENGTH) == 2 * 32


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.9, 0.99])
def test_budget_is_kept_and_used(share: float) -> None:
    recipe = kwon.allocate(SITES, SLOPES, share, LENGTH, "least_squares")
    total, _ = costs(Recipe.of({}))
    used, _ = costs(recipe)
    neuron = 64
    all_neurons = all(not recipe.at(*i) for i in SITES if i.kind == "ffn")
    assert used <= share * total + 1e-6
    # What is left buys no neuron; heads alone are bought only as they fit.
    assert all_neurons or used > share * total - neuron
    assert recipe.compensation == "least_squares"
    Base(MODEL).plan(recipe)


def test_the_whole_budget_buys_the_base() -> None:
    assert kwon.allocate(SITES, SLOPES, 1.0, LENGTH, "none") == Recipe.of({})


def test_recipe_fits_the_model() -> None:
    recipe = kwon.allocate(SITES, SLOPES, 0.5, LENGTH, "none")
    small = shrink(MODEL, recipe)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in MODEL.parameters())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_search_removes_the_least_importance(share: float) -> None:
    removed = kwon.search(SITES, SLOPES, share, LENGTH)
    scores = {
        kind: np.sort(
            np.concatenate(
                [np.square(s, dtype=float).sum(0) for i, s in SLOPES.items() if i.kind == kind]
            )
        )
        for kind in ("attention", "ffn")
    }
    found = sum(np.square(SLOPES[i][:, mask], dtype=float).sum() for i, mask in removed.items())
    budget = share * costs(Recipe.of({}))[0]
    head, neuron = 4 * 32 * 8 + 2 * LENGTH * 8, 64
    best = np.inf
    for heads in range(3 * HEADS + 1):
        if heads * head <= budget:
            neurons = min(3 * NEURONS, int((budget - heads * head) // neuron))
            lost = scores["attention"][: 3 * HEADS - heads].sum()
            lost += scores["ffn"][: 3 * NEURONS - neurons].sum()
            best = min(best, lost)
    assert found == pytest.approx(best)


def test_rearrangement_never_raises_the_form_and_keeps_counts() -> None:
    random = np.random.default_rng(1)
    gained = 0
    for slopes in SLOPES.values():
        block = slopes.T @ slopes
        for count in range(1, len(block)):
            removed = np.zeros(len(block), dtype=bool)
            removed[random.permutation(len(block))[:count]] = True
            before = removed.copy()
            after = kwon.rearranged(block, removed)
            assert (removed == before).all()
            assert after.sum() == count
            assert form(block, after) <= form(block, removed)
            gained += form(block, after) < 0.9 * form(block, removed)
    assert gained > 50


def test_rearrangement_takes_units_that_cancel_out() -> None:
    # Units 0 and 1 do the same, 2 and 3 opposite things: alone, 0 and 1 look the cheapest.
    slopes = np.array([[1.0, 1.0, 1.1, -1.1, 5.0], [0.2, 0.2, 0.0, 0.0, 0.0]])
    removed = np.array([True, True, False, False, False])
    block = slopes.T @ slopes
    after = kwon.rearranged(block, removed)
    best = min(form(block, np.isin(np.arange(5), pair)) for pair in combinations(range(5), 2))
    assert form(block, after) == pytest.approx(best, abs=0.1)
    assert form(block, after) < form(block, removed) / 50


def test_allocation_has_the_counts_of_the_search_and_a_form_no_higher() -> None:
    removed = kwon.search(SITES, SLOPES, 0.5, LENGTH)
    recipe = kwon.allocate(SITES, SLOPES, 0.5, LENGTH, "none")
    known = kwon.allocate(SITES, SLOPES, 0.5, LENGTH, "none", blocks=kwon.fisher_blocks(SLOPES))
    assert recipe == known
    changed = 0
    for site_id, mask in removed.items():
        after = np.zeros(len(mask), dtype=bool)
        for choice in recipe.at(*site_id).values():
            assert isinstance(choice, Kept)
            after = ~np.isin(np.arange(choice.of), choice.kept)
        block = SLOPES[site_id].T @ SLOPES[site_id]
        assert after.sum() == mask.sum()
        assert form(block, after) <= form(block, mask)
        changed += bool((after != mask).any())
    assert changed


def test_a_scale_undoes_the_removal_of_a_unit_that_another_equals() -> None:
    model, site = random_model("bert"), SiteId(0, "ffn")
    units, state = Base(model).sites[site].units, model.state_dict()
    assert units is not None
    with torch.no_grad():
        for axis in units.axes:
            tensor = state[axis.tensor].movedim(axis.dim, 0)
            tensor[5] = tensor[2]
    batch, base = padded_batch("bert"), Base(model)
    masks = [batch["attention_mask"].bool()]
    alike = [torch.ones(int(masks[0].sum()))]
    sample = Sample([batch], masks, dict.fromkeys(base.sites, alike))
    recipe = Recipe.of({site: {"ffn": Kept(of=64, kept=tuple(set(range(64)) - {5}))}}, "sequential")

    def logits(small: PreTrainedModel) -> torch.Tensor:
        with torch.no_grad():
            return small(**batch).logits

    weights = ClosedForm(base, None, lambda: sample)
    weights._sequential = kwon.UnitScales(base, lambda: sample, ridge=1e-9)
    scaled, before = weights.shrink(recipe), base.cut(recipe)[units.output.tensor]
    torch.testing.assert_close(logits(scaled), logits(model), rtol=0, atol=1e-4)
    factors = scaled.state_dict()[units.output.tensor] / before
    assert factors.std(0).max() < 1e-4  # one a neuron, whatever the output
    assert factors[:, 2].mean() == pytest.approx(2, abs=1e-3)
    cut = base.shrink(recipe, base.cut(recipe))
    assert (logits(cut) - logits(model)).abs().max() > 1e-3
    weights._sequential = kwon.UnitScales(base, lambda: sample, ridge=1e9)
    torch.testing.assert_close(logits(weights.shrink(recipe)), logits(cut), rtol=0, atol=1e-5)
