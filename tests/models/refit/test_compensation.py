"""Compensated weights against numpy's least squares on the activations themselves."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.models.base_model import Base
from axsearch.models.refit import compensation
from axsearch.models.refit.compensation import DAMPING, Moments
from axsearch.models.weights import ClosedForm, shrink
from axsearch.space.recipe import Compensation, Recipe
from axsearch.system.memory import TensorCache
from axsearch.testing.models import random_model, tiny_model

Floats = NDArray[np.float64]
HEADS, NEURONS, WIDTH = (1, 3), tuple(range(0, 64, 3)), 8
SITES = (SiteId(0, "attention"), SiteId(0, "ffn"), SiteId(1, "attention"), SiteId(1, "ffn"))
# Linear with bias, (in, out) weights with bias, Linear without bias.
TYPES = ("bert", "gpt2", "modernbert")


TOKENS = torch.randint(2, 60, (24, 20), generator=torch.Generator().manual_seed(0))


@functools.cache
def moments(model_type: str) -> Moments:
    """Of the activations themselves, by numpy."""
    return moments_of(tiny_model(model_type))


def moments_of(model: PreTrainedModel) -> Moments:
    inputs = {site: blocks(model, site)[0] for site in SITES}
    return Moments(
        {site: torch.from_numpy(x.mean(0)) for site, x in inputs.items()},
        {site: torch.from_numpy(np.cov(x.T, bias=True)).float() for site, x in inputs.items()},
    )


def blocks(model: PreTrainedModel, site: SiteId) -> tuple[Floats, Floats]:
    """The inputs and outputs of a block's output projection, token by token."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((inputs[0], output))

    gate = Base(model).gates(model)[site]
    with gate.register_forward_hook(look), torch.no_grad():
        model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))
    x, y = (tensor.flatten(0, 1).double().numpy() for tensor in seen)
    return x, y


def recipe_of(site: SiteId, way: Compensation, **more: Choice) -> Recipe:
    attention = site.kind == "attention"
    units = Kept(of=4, kept=HEADS) if attention else Kept(of=64, kept=NEURONS)
    return Recipe.of({site: {"heads" if attention else "ffn": units, **more}}, way)


def places(site: SiteId) -> tuple[list[int], list[int]]:
    """Columns of x of the units kept and of those gone."""
    if site.kind == "ffn":
        return list(NEURONS), [n for n in range(64) if n not in NEURONS]
    kept = [head * WIDTH + i for head in HEADS for i in range(WIDTH)]
    return kept, [n for n in range(32) if n not in kept]


def weights(model: PreTrainedModel, state: dict[str, Tensor], site: SiteId) -> tuple[Floats, Any]:
    """(out, in) weight and bias of a block's output projection in a state dict."""
    units = Base(model).sites[site].units
    weight = state[units.output.tensor].double().numpy()
    weight = weight.T if model.config.model_type == "gpt2" else weight
    return weight, None if units.bias is None else state[units.bias].double().numpy()


def least_squares(x: Floats, weight: Floats, bias: Any, site: SiteId) -> tuple[Floats, Any]:
    """The refitted weight and bias, with a ridge on how far the weights move."""
    kept, gone = places(site)
    centre = x.mean(0) if bias is not None else np.zeros(x.shape[1])
    inside, outside = x[:, kept] - centre[kept], (x[:, gone] - centre[gone]) @ weight[:, gone].T
    ridge = DAMPING * (inside**2).mean()
    rows = np.vstack([inside / len(x) ** 0.5, ridge**0.5 * np.eye(len(kept))])
    wanted = np.vstack([outside / len(x) ** 0.5, np.zeros((len(kept), outside.shape[1]))])
    change = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    if bias is not None:
        bias = bias + weight[:, gone] @ centre[gone] - change @ centre[kept]
    return weight[:, kept] + change, bias


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("model_type", TYPES)
class TestAgainstNumpy:
    def test_least_squares(self, model_type: str, site: SiteId) -> None:
        base = tiny_model(model_type)
        weight, bias = weights(base, base.state_dict(), site)
        expected, expected_bias = least_squares(blocks(base, site)[0], weight, bias, site)
        state = ClosedForm(Base(base), moments(model_type)).state(recipe_of(site, "least_squares"))
        found, found_bias = weights(base, state, site)
        assert np.abs(expected - weight[:, places(site)[0]]).max() > 1e-3
        np.testing.assert_allclose(found, expected, atol=2e-4)
        assert (found_bias is None) is (model_type == "modernbert")
        if found_bias is not None:
            np.testing.assert_allclose(found_bias, expected_bias, atol=2e-4)

    def test_bias_takes_up_the_mean_of_what_is_gone(self, model_type: str, site: SiteId) -> None:
        base = tiny_model(model_type)
        weight, bias = weights(base, base.state_dict(), site)
        kept, gone = places(site)
        state = ClosedForm(Base(base), moments(model_type)).state(recipe_of(site, "bias"))
        found, found_bias = weights(base, state, site)
        np.testing.assert_array_equal(found, weight[:, kept])
        if found_bias is None:
            assert bias is None
        else:
            mean = (blocks(base, site)[0][:, gone] @ weight[:, gone].T).mean(0)
            assert np.abs(mean).max() > 1e-3
            np.testing.assert_allclose(found_bias, bias + mean, atol=1e-5)

    def test_error_of_the_block_is_never_larger(self, model_type: str, site: SiteId) -> None:
        base = tiny_model(model_type)
        wanted = blocks(base, site)[1]
        ways: tuple[Compensation, ...] = ("none", "bias", "least_squares")
        errors = []
        for way in ways:
            small = shrink(base, recipe_of(site, way), moments(model_type))
            errors.append(((blocks(small, site)[1] - wanted) ** 2).mean())
        none, bias, squares = errors
        if model_type == "modernbert":
            assert bias == none
        else:
            assert bias < none
        assert squares < bias

    def test_shapes_and_modules_are_those_without(self, model_type: str, site: SiteId) -> None:
        base = tiny_model(model_type)
        plain = shrink(base, recipe_of(site, "none"))
        units = Base(base).sites[site].units
        for way in ("bias", "least_squares"):
            small = shrink(base, recipe_of(site, way), moments(model_type))
            assert str(small) == str(plain)
            new, old = small.state_dict(), plain.state_dict()
            assert {n: (t.shape, t.dtype) for n, t in new.items()} == {
                n: (t.shape, t.dtype) for n, t in old.items()
            }
            changed = {name for name in old if not torch.equal(new[name], old[name])}
            assert changed <= {units.output.tensor, units.bias}


@pytest.mark.parametrize("model_type", TYPES)
def test_base_is_untouched(model_type: str) -> None:
    base = tiny_model(model_type)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for site in SITES:
        shrink(base, recipe_of(site, "least_squares"), moments(model_type))
    assert all(torch.equal(base.state_dict()[name], t) for name, t in before.items())


def test_a_block_that_is_gone_and_a_site_left_alone_have_nothing_to_refit() -> None:
    base = tiny_model("bert")
    some: dict[SiteId, dict[str, Choice]] = {
        SITES[0]: {"heads": Kept(of=4, kept=())},
        SITES[1]: {"ffn": Kept(of=64, kept=NEURONS)},
        SITES[2]: {"topk": Setting(value=3, mode="hard")},
    }
    plain = Base(base).cut(Recipe.of(some))
    found = ClosedForm(Base(base), moments("bert")).state(Recipe.of(some, "least_squares"))
    assert list(found) == list(plain)
    changed = {name for name in plain if not torch.equal(found[name], plain[name])}
    assert changed == {f"bert.encoder.layer.0.output.dense.{end}" for end in ("weight", "bias")}


def test_a_k_beside_the_units_does_not_change_the_fit() -> None:
    base, site = tiny_model("bert"), SITES[0]
    k = recipe_of(site, "least_squares", topk=Setting(value=3, mode="hard"))
    with_k = ClosedForm(Base(base), moments("bert")).state(k)
    without = ClosedForm(Base(base), moments("bert")).state(recipe_of(site, "least_squares"))
    assert all(torch.equal(with_k[name], tensor) for name, tensor in without.items())


def test_without_compensation_moments_change_nothing() -> None:
    base = tiny_model("bert")
    plain = Base(base).cut(recipe_of(SITES[0], "none"))
    given = ClosedForm(Base(base), moments("bert")).state(recipe_of(SITES[0], "none"))
    assert all(torch.equal(plain[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize("way", ["bias", "least_squares"])
def test_units_that_never_vary(way: Compensation) -> None:
    base = random_model("bert")
    with torch.no_grad():  # every neuron gives the same for every token
        base.bert.encoder.layer[0].intermediate.dense.weight.zero_()
    small = shrink(base, recipe_of(SITES[1], way), moments_of(base))
    wanted, found = blocks(base, SITES[1])[1], blocks(small, SITES[1])[1]
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # the bias takes all of it up


def test_a_dtype_of_less_precision_is_kept() -> None:
    base = random_model("bert").to(torch.bfloat16)
    state = ClosedForm(Base(base), moments("bert")).state(recipe_of(SITES[1], "least_squares"))
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


@pytest.mark.parametrize("model_type", TYPES)
def test_what_was_refitted_before_is_the_same_to_the_last_bit(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_model(model_type)
    seen = moments(model_type)
    kept = ClosedForm(Base(base), seen)
    ways: tuple[Compensation, ...] = ("bias", "least_squares")
    other = Recipe.of({SITES[1]: {"ffn": Kept(of=64, kept=tuple(range(40)))}}, "least_squares")
    both = Recipe.of(
        {site: dict(choices) for s in SITES[:2] for site, choices in recipe_of(s, "bias").sites},
        "least_squares",
    )
    recipes = [*(recipe_of(site, way) for way in ways for site in SITES), other, both]
    fresh = [ClosedForm(Base(base), seen).state(r) for r in recipes]
    none_kept = ClosedForm(Base(base), seen)
    none_kept.refits = TensorCache(0)
    for turn in range(2):
        if turn:
            monkeypatch.setattr(compensation, "_refit", None)  # all is known
        for recipe, wanted in zip(recipes, fresh, strict=True):
            found = kept.state(recipe)
            assert list(found) == list(wanted)
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    monkeypatch.undo()
    for recipe, wanted in zip(recipes, fresh, strict=True):
        found = none_kept.state(recipe)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert none_kept.refits.currsize == 0
    stored = [tensor for refit in kept.refits.values() for tensor in refit if tensor is not None]
    assert kept.refits.currsize == sum(t.numel() * t.element_size() for t in stored) > 0


def test_the_refits_least_recently_used_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    base, seen = tiny_model("bert"), moments("bert")
    first, second, third = (
        Recipe.of({SITES[1]: {"ffn": Kept(of=64, kept=tuple(range(s, s + 8)))}}, "least_squares")
        for s in (0, 8, 16)
    )
    each = 4 * (32 * 8 + 32)  # float32 weight and bias
    known, too_small = ClosedForm(Base(base), seen), ClosedForm(Base(base), seen)
    known.refits, too_small.refits = TensorCache(2 * each), TensorCache(each - 1)
    made, refit = [], compensation._refit
    monkeypatch.setattr(compensation, "_refit", lambda *args: made.append(1) or refit(*args))
    recipes = (first, second, first, third, first, second)
    for recipe, refitted in zip(recipes, (1, 2, 2, 3, 3, 4), strict=True):
        known.state(recipe)
        assert len(made) == refitted
    assert known.refits.currsize == 2 * each
    for _ in range(2):
        too_small.state(first)
    assert len(made) == 6
    assert len(too_small.refits) == 0
