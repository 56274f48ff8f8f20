"""The contract of model families: the tests that each of them passes."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import (
    ATTENTION,
    FFN,
    OUTSIDE,
    SELECTABLE_SCORES,
    STACK,
    Site,
    SiteId,
)
from axsearch.errors import UsageError
from axsearch.evaluation.size import parameter_count
from axsearch.models.architectures import Architecture, architecture_of
from axsearch.models.base_model import Base
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import (
    LENGTH,
    every_site,
    padded_batch,
    random_recipe,
    recipe_of_any,
    short_batch,
    tensors_of,
    tiny_model,
)
from axsearch.testing.references import (
    HEADS,
    KNOWN,
    NEURONS,
    TOPK,
    TOPK_FFN,
    Masked,
    masked,
)

TOLERANCE = 1e-5
RANDOM_RECIPES = 50
TWICE = 20
LAYERS = 2
ATTENTION_MODES = ("renormalised", "hard")


def blocks_of(model_type: str) -> tuple[Site, ...]:
    """The attention and the FFN of each layer; a family may have other sites beside them."""
    return tuple(site for site in every_site(model_type) if site.id.kind in (ATTENTION, FFN))


def units_name(site: Site) -> str:
    """The name of the choice that removes a site's heads or neurons."""
    return HEADS if site.id.kind == ATTENTION else NEURONS


def keeping(site: Site, *kept: int) -> Recipe:
    """The recipe that keeps only these units of a site."""
    return Recipe.of({site.id: {units_name(site): Kept(of=site.count, kept=kept)}})


def others(site: Site, removed: int) -> tuple[int, ...]:
    """All units of a site but one."""
    return tuple(unit for unit in range(site.count) if unit != removed)


def without_layers(model_type: str, *layers: int) -> Recipe:
    """The recipe that keeps no head and no neuron of these layers."""
    return Recipe.of(
        {
            site.id: {units_name(site): Kept(of=site.count, kept=())}
            for site in blocks_of(model_type)
            if site.id.layer in layers
        }
    )


def first_settled(model_type: str, recipes: Iterable[Recipe]) -> tuple[Recipe, Masked]:
    """The first recipe whose top-k do not depend on rounding, and its masked base's outputs."""
    base, batch = tiny_model(model_type), short_batch(model_type)
    return next(
        (recipe, found)
        for recipe in recipes
        if (found := masked(base, recipe, batch)).gap > TOLERANCE
    )


@functools.cache
def base_logits(model_type: str) -> Tensor:
    """The logits of the tiny model for its short batch, (rows, labels)."""
    with torch.no_grad():
        logits: Tensor = tiny_model(model_type)(**short_batch(model_type)).logits
    return logits


def assert_same(model_type: str, small: PreTrainedModel, recipe: Recipe, expected: Masked) -> bool:
    """The smaller model answers as the masked base; returns whether the base answers otherwise."""
    with torch.no_grad():
        found = small(**short_batch(model_type)).logits
    assert (found - expected.logits).abs().max().item() <= TOLERANCE, recipe.to_json()
    return bool((found - base_logits(model_type)).abs().max() > TOLERANCE)


def assert_same_as_masked(model_type: str, recipe: Recipe, expected: Masked | None = None) -> None:
    """The tiny model with a recipe answers as the masked base, whose outputs may be passed."""
    base = tiny_model(model_type)
    expected = masked(base, recipe, short_batch(model_type)) if expected is None else expected
    # A reference that masks nothing would agree with a shrink that removes nothing.
    assert assert_same(model_type, shrink(base, recipe), recipe, expected)


class ArchitectureContract:
    """The tests of one family of layers that have an attention and an FFN.

    A subclass sets its ``model_type``, by a parameter or a fixture. :mod:`axsearch.testing.models`
    must be able to make a tiny model of it, see ``OWN_SIZES`` and ``PICTURES`` there, and
    :mod:`axsearch.testing.references` must know its attention.
    """

    def test_is_found_by_each_of_its_model_types(self, model_type: str) -> None:
        family = architecture_of(model_type)
        assert isinstance(family, Architecture)
        assert type(family).__doc__
        assert model_type in family.model_types
        assert tiny_model(model_type).config.model_type == model_type

    def test_each_layer_has_an_attention_and_an_ffn(self, model_type: str) -> None:
        assert len(architecture_of(model_type).layers(tiny_model(model_type))) == LAYERS
        assert [site.id for site in blocks_of(model_type)] == [
            SiteId(layer, kind) for layer in range(LAYERS) for kind in (ATTENTION, FFN)
        ]
        assert all(site.length == LENGTH for site in every_site(model_type))
        assert [site.count for site in blocks_of(model_type)] == [4, 64] * LAYERS

    def test_sites_name_modules_of_their_layer(self, model_type: str) -> None:
        model, family = tiny_model(model_type), architecture_of(model_type)
        prefixes = [family.layer_prefix(model, layer) for layer in range(LAYERS)]
        for site in every_site(model_type):
            assert bool(site.modules) is (site.id.kind != STACK)  # which is none but its layers
            for module in site.modules:
                assert f"{module}.weight" in model.state_dict()
                layers = [n for n, prefix in enumerate(prefixes) if module.startswith(prefix)]
                assert layers == ([] if site.id.layer == OUTSIDE else [site.id.layer])

    def test_tensor_names_exist_and_hold_the_units(self, model_type: str) -> None:
        state = tiny_model(model_type).state_dict()
        for site in every_site(model_type):
            units = site.units
            if units is None:
                assert site.id.kind not in (ATTENTION, FFN)
                continue
            assert units.axes
            assert units.output in units.axes
            for axis in units.axes:
                assert axis.tensor.startswith(site.modules)
                size = state[axis.tensor].shape[axis.dim]
                assert size == axis.parts * units.count * units.width
            assert set(units.whole) <= set(state)
            assert units.bias is None or units.bias in units.whole

    def test_layer_prefix_covers_the_layer(self, model_type: str) -> None:
        model, family = tiny_model(model_type), architecture_of(model_type)
        for number, layer in enumerate(family.layers(model)):
            prefix = family.layer_prefix(model, number)
            assert prefix.endswith(".")
            found = {n.removeprefix(prefix) for n in model.state_dict() if n.startswith(prefix)}
            assert found == set(layer.state_dict())

    def test_example_has_padding_and_no_row_without_a_token(self, model_type: str) -> None:
        model, family = tiny_model(model_type), architecture_of(model_type)
        longest = family.longest(model.config)
        batch = family.example(model.config, 4, longest)
        assert all(len(tensor) == 4 for tensor in batch.values())
        if "attention_mask" in batch:
            mask = batch["attention_mask"]
            assert mask.shape == batch["input_ids"].shape == (4, longest)
            assert mask[:2].all()
            assert mask[2:].sum(1).tolist() == [longest // 2] * 2
            pad = model.config.pad_token_id
            assert pad is None or torch.equal(batch["input_ids"] == pad, mask == 0)
        with torch.no_grad():  # the longest input there may be
            assert model(**batch).logits.isfinite().all()

    @pytest.mark.parametrize("layer", range(LAYERS))
    def test_a_head_or_neurons_removed(self, model_type: str, layer: int) -> None:
        heads, neurons = blocks_of(model_type)[2 * layer : 2 * layer + 2]
        for head in range(heads.count):
            assert_same_as_masked(model_type, keeping(heads, *others(heads, head)))
        for gone in range(0, neurons.count, 21):
            assert_same_as_masked(model_type, keeping(neurons, *others(neurons, gone)))

    @pytest.mark.parametrize("layer", range(LAYERS))
    def test_a_block_removed(self, model_type: str, layer: int) -> None:
        for site in blocks_of(model_type)[2 * layer : 2 * layer + 2]:
            assert_same_as_masked(model_type, keeping(site))

    @pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)], ids=str)
    def test_whole_layers_removed(self, model_type: str, gone: tuple[int, ...]) -> None:
        base, family = tiny_model(model_type), architecture_of(model_type)
        assert_same_as_masked(model_type, without_layers(model_type, *gone))
        small = shrink(base, without_layers(model_type, *gone))
        kept = [n for n in range(LAYERS) if n not in gone or family.stays(base.config, n, gone)]
        assert len(family.layers(small)) == len(kept)
        if kept != list(range(LAYERS)):
            assert small.config.num_hidden_layers == len(kept)
        assert not any(
            parameter.numel()
            for n in gone
            if n in kept
            for parameter in family.layers(small)[n].parameters()
        )

    @pytest.mark.parametrize("mode", ATTENTION_MODES)
    @pytest.mark.parametrize("layer", range(LAYERS))
    def test_topk_attention(self, model_type: str, layer: int, mode: str) -> None:
        site = blocks_of(model_type)[2 * layer]

        def topk(k: int) -> Recipe:
            return Recipe.of({site.id: {TOPK: Setting(value=k, mode=mode)}})

        if SELECTABLE_SCORES in site.lacks:
            with pytest.raises(
                UsageError, match=f"'{TOPK}' at {site.id}, not supported"
            ) as refused:
                shrink(tiny_model(model_type), topk(3))
            assert site.lacks[SELECTABLE_SCORES] in str(refused.value)
            return
        recipe, expected = first_settled(model_type, map(topk, range(3, 12)))
        assert_same_as_masked(model_type, recipe, expected)

    @pytest.mark.parametrize("layer", range(LAYERS))
    def test_topk_ffn(self, model_type: str, layer: int) -> None:
        site = blocks_of(model_type)[2 * layer + 1]
        some = Kept(of=64, kept=tuple(range(0, 64, 2)))
        for choices in ({}, {NEURONS: some}):
            recipe, expected = first_settled(
                model_type,
                (
                    Recipe.of({site.id: {**choices, TOPK_FFN: Setting(value=k, mode="largest")}})
                    for k in range(9, 20)
                ),
            )
            assert_same_as_masked(model_type, recipe, expected)

    def test_random_recipes(self, model_type: str) -> None:
        base, sites = tiny_model(model_type), blocks_of(model_type)
        family, seeds = architecture_of(model_type), iter(range(4 * RANDOM_RECIPES))
        # Types of one family differ in their name alone.
        number = RANDOM_RECIPES if model_type == family.model_types[0] else 10
        state = base.state_dict()
        seen: set[str] = set()
        changed = 0
        for _ in range(number):
            recipe, expected = first_settled(
                model_type, (random_recipe(model_type, seed, KNOWN) for seed in seeds)
            )
            small = shrink(base, recipe)
            changed += assert_same(model_type, small, recipe, expected)
            predicted = 0
            for site in sites:
                choice = recipe.at(*site.id).get(units_name(site))
                kept = len(choice.kept) if isinstance(choice, Kept) else site.count
                predicted += (site.count - kept) * site.unit_parameters
                if not kept and site.units is not None:
                    predicted += sum(state[name].numel() for name in site.units.whole)
            for layer in range(LAYERS):
                if recipe.removed(layer, ATTENTION) and recipe.removed(layer, FFN):
                    seen.add("layer")
                    prefix = family.layer_prefix(base, layer)
                    there = {n for n in state if n.startswith(prefix)}
                    for site in sites[2 * layer : 2 * layer + 2]:
                        there -= tensors_of(site)
                    predicted += sum(state[name].numel() for name in there)
            left = parameter_count(Base(base).cut(recipe))
            assert parameter_count(state) - left == predicted
            assert sum(parameter.numel() for parameter in small.parameters()) == left
            for site_id, name, choice in recipe.choices():
                empty = isinstance(choice, Kept) and not choice.kept
                seen.add(f"no {site_id.kind}" if empty else name)
                seen.add(choice.mode if isinstance(choice, Setting) else name)
        assert changed >= 0.9 * number  # a k may be above the tokens there are
        if number < RANDOM_RECIPES:
            return
        expected_kinds = {"layer", "no attention", "no ffn", HEADS, NEURONS, TOPK_FFN, "largest"}
        lacking = SELECTABLE_SCORES in sites[0].lacks
        assert seen == expected_kinds | (set() if lacking else {TOPK, *ATTENTION_MODES})

    def test_made_smaller_twice_it_is_as_made_smaller_once_by_both_recipes(
        self, model_type: str
    ) -> None:
        base, batch = tiny_model(model_type), short_batch(model_type)
        seen: set[str] = set()
        for seed in range(TWICE):
            small = Base(shrink(base, random_recipe(model_type, seed)))
            second = recipe_of_any(small.sites.values(), f"{model_type} again {seed}")
            seen |= {name for _, name, _ in second.choices()}
            joint = small.plan(second).after
            once, twice = shrink(base, joint.recipe), shrink(small.model, second)
            if any(found.units for found in Base(twice).sites.values()):  # else any layer may stay
                assert joint.layers == Base(base).plan(joint.recipe).layers
            assert small.plan(second).plain == Base(base).plan(joint.recipe).plain
            state = twice.state_dict()
            assert list(once.state_dict()) == list(state)
            assert all(torch.equal(t, state[n]) for n, t in once.state_dict().items())
            with torch.no_grad():
                expected, found = once(**batch).logits, twice(**batch).logits
            assert torch.equal(found, expected), (seed, joint.recipe.to_json())
        assert {HEADS, NEURONS} <= seen

    def test_exact_recipe_changes_nothing(self, model_type: str) -> None:
        base, batch = tiny_model(model_type), padded_batch(model_type)
        small = shrink(base, Recipe.of({}))
        with torch.no_grad():
            assert torch.equal(small(**batch).logits, base(**batch).logits)
        assert all(
            small.state_dict()[name].data_ptr() == tensor.data_ptr()
            for name, tensor in base.state_dict().items()
        )

    def test_forward_and_backward_in_train_mode(self, model_type: str) -> None:
        base, batch = tiny_model(model_type), short_batch(model_type)
        heads, neurons, more_heads, more_neurons = blocks_of(model_type)
        topk = {} if SELECTABLE_SCORES in heads.lacks else {TOPK: Setting(value=4, mode="hard")}
        some = {TOPK_FFN: Setting(value=3, mode="largest")}
        recipes = [
            Recipe.of(
                {
                    heads.id: {HEADS: Kept(of=4, kept=(1, 3)), **topk},
                    neurons.id: {NEURONS: Kept(of=64, kept=(0, 5, 9, 60)), **some},
                    more_heads.id: {HEADS: Kept(of=4, kept=())},
                }
            ),
            Recipe.of(
                {
                    heads.id: {HEADS: Kept(of=4, kept=())},
                    neurons.id: {NEURONS: Kept(of=64, kept=())},
                }
                | {more_neurons.id: {NEURONS: Kept(of=64, kept=())}}
            ),
            keeping(neurons),
        ]
        for recipe in recipes:
            small = shrink(base, recipe).train()
            labels = torch.tensor([0, 1, 0])[: len(next(iter(batch.values())))]
            small(**batch, labels=labels).loss.backward()
            slopes = {n: p.grad for n, p in small.named_parameters() if p.requires_grad}
            layers = [
                slope
                for name, slope in slopes.items()
                if name.startswith(architecture_of(model_type).layer_prefix(small, 0))
            ]
            assert all(slope is not None and slope.isfinite().all() for slope in layers)
            assert any(slope is not None and slope.any() for slope in slopes.values())
        assert all(parameter.grad is None for parameter in base.parameters())
        assert not base.training

    def test_base_is_untouched(self, model_type: str) -> None:
        base, batch = tiny_model(model_type), short_batch(model_type)
        before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        structure, config = str(base), base.config.to_dict()
        with torch.no_grad():
            logits = base(**batch).logits
            for seed in range(5):
                shrink(base, random_recipe(model_type, seed))(**batch)
            assert torch.equal(base(**batch).logits, logits)
        assert list(base.state_dict()) == list(before)
        assert all(torch.equal(base.state_dict()[name], t) for name, t in before.items())
        assert (str(base), base.config.to_dict()) == (structure, config)
        assert base.config._attn_implementation == architecture_of(model_type).attention

    def test_nothing_is_left_on_the_meta_device(self, model_type: str) -> None:
        small = shrink(tiny_model(model_type), random_recipe(model_type, 1))
        assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))
