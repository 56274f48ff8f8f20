"""What is particular to one model family, and the heads that its models may have."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.base_model import Base
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import (
    LENGTH,
    PICTURES,
    padded_batch,
    random_model,
    short_batch,
    tiny_model,
)
from axsearch.testing.references import masked

# Of the types of one family, which differ in their name alone, the first.
TEXT = [
    name
    for name, family in architectures().items()
    if name == family.model_types[0] and name not in PICTURES
]
NO_HEADS, NO_NEURONS = Kept(of=4, kept=()), Kept(of=64, kept=())


def without_layers(*layers: int) -> Recipe:
    return Recipe.of(
        {SiteId(layer, "attention"): {"heads": NO_HEADS} for layer in layers}
        | {SiteId(layer, "ffn"): {"ffn": NO_NEURONS} for layer in layers}
    )


def mixed(base: PreTrainedModel, seed: int = 0) -> Recipe:
    """Some units gone at every site, others in every layer."""
    sites: dict[SiteId, dict[str, Choice]] = {}
    for number, site in enumerate(Base(base).sites, seed):
        kept = [(0, 2, 3), (1, 2), (3,), (0, 1)][number % 4]
        if site.kind == "attention":
            sites[site] = {"heads": Kept(of=4, kept=kept)}
        elif site.kind == "ffn":
            sites[site] = {"ffn": Kept(of=64, kept=tuple(range(kept[0], 64, 3)))}
    return Recipe.of(sites)


def difference(base: PreTrainedModel, recipe: Recipe, batch: dict[str, Tensor]) -> float:
    """The largest one between any output of the smaller model and of the masked base."""
    expected = masked(base, recipe, batch).answer
    with torch.no_grad():
        found = shrink(base, recipe)(**batch)
    assert {name for name in found if isinstance(found[name], Tensor)} == set(expected)
    return max((found[name] - tensor).abs().max().item() for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("auto_class", "outputs"),
    [
        ("AutoModelForTokenClassification", {"logits"}),
        ("AutoModelForQuestionAnswering", {"start_logits", "end_logits"}),
    ],
)
@pytest.mark.parametrize("model_type", TEXT)
def test_heads_of_other_tasks(model_type: str, auto_class: str, outputs: set[str]) -> None:
    base, batch = tiny_model(model_type, auto_class), short_batch(model_type)
    assert outputs <= set(masked(base, Recipe.of({}), batch).answer)
    for recipe in (mixed(base), without_layers(0)):
        assert difference(base, recipe, batch) <= 1e-5
    small = shrink(base, mixed(base)).train()
    answer = small(**batch)
    sum(answer[name].square().sum() for name in outputs).backward()
    gate = architecture_of(model_type).gates(small)[SiteId(0, "attention")]
    assert gate.weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("model_type", TEXT)
def test_regression_head(model_type: str) -> None:
    base = random_model(model_type, num_labels=1)
    assert difference(base, mixed(base), short_batch(model_type)) <= 1e-5


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("albert", {"num_hidden_layers": 5}),
        ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 1}),
        ("deberta-v2", {"share_att_key": True}),
        ("deberta-v2", {"conv_kernel_size": 0}),
        ("deberta-v2", {"relative_attention": False}),
        ("deberta-v2", {"pos_att_type": ["p2c"]}),
        ("electra", {"embedding_size": 32}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("gpt2", {"n_inner": None}),
        ("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
        ("modernbert", {"layer_types": ["sliding_attention", "full_attention"]}),
        ("modernbert", {"classifier_pooling": "mean"}),
        ("vit", {"qkv_bias": False}),
    ],
    ids=str,
)
def test_settings_of_a_config(model_type: str, more: dict[str, Any]) -> None:
    base, batch = random_model(model_type, **more), short_batch(model_type)
    layers = len(architecture_of(model_type).layers(base))
    neurons = 128 if more.get("n_inner", 0) is None else 64
    recipes = [without_layers(n) for n in range(layers)] + [mixed(base, n) for n in (0, 2)]
    for recipe in recipes if neurons == 64 else []:
        assert difference(base, recipe, batch) <= 1e-5
    heads_only: dict[str, Choice] = {"heads": Kept(of=4, kept=(1,))}
    assert difference(base, Recipe.of({SiteId(0, "attention"): heads_only}), batch) <= 1e-5
    neurons_only: dict[str, Choice] = {"ffn": Kept(of=neurons, kept=(1, 5))}
    assert difference(base, Recipe.of({SiteId(0, "ffn"): neurons_only}), batch) <= 1e-5


class TestAlbert:
    @pytest.mark.parametrize(
        ("layers", "groups", "repeats"),
        [(12, 1, [12]), (4, 2, [2, 2]), (5, 2, [3, 2]), (3, 3, [1, 1, 1])],
    )
    def test_a_site_says_how_many_layers_share_it(
        self, layers: int, groups: int, repeats: list[int]
    ) -> None:
        base = random_model("albert", num_hidden_layers=layers, num_hidden_groups=groups)
        *sites, embeddings = Base(base).sites.values()
        assert embeddings.repeats == 1
        assert [site.repeats for site in sites[::2]] == repeats
        assert [site.repeats for site in sites[1::2]] == repeats
        runs: list[int] = []
        for number, group in enumerate(architecture_of("albert").layers(base)):
            group.register_forward_hook(lambda *_, number=number: runs.append(number))
        with torch.no_grad():
            base(**short_batch("albert"))
        assert [runs.count(number) for number in range(groups)] == repeats

    def test_groups_keep_their_place(self) -> None:
        base = tiny_model("albert")
        wanted = Base(base).plan(without_layers(0))
        assert wanted.layers == (0, 1)
        assert not wanted.plain
        small = shrink(base, without_layers(0))
        assert not list(architecture_of("albert").layers(small)[0].parameters())

    def test_groups_of_several_layers_are_refused(self) -> None:
        with pytest.raises(UsageError, match="inner_group_num 2 is not supported"):
            Base(random_model("albert", inner_group_num=2))


class TestDeberta:
    def test_the_first_layer_keeps_its_place_for_the_convolution(self) -> None:
        base = tiny_model("deberta-v2")
        assert Base(base).plan(without_layers(0)).layers == (0, 1)
        assert Base(base).plan(without_layers(1)).layers == (0,)
        assert not Base(base).plan(without_layers(0)).plain
        assert Base(base).plan(without_layers(1)).plain
        small = shrink(base, without_layers(0))
        assert not list(architecture_of("deberta-v2").layers(small)[0].parameters())
        assert list(small.base_model.encoder.conv.parameters())

    def test_without_a_convolution_it_goes(self) -> None:
        base = random_model("deberta-v2", conv_kernel_size=0)
        assert Base(base).plan(without_layers(0)).layers == (1,)
        assert len(architecture_of("deberta-v2").layers(shrink(base, without_layers(0)))) == 1

    def test_without_a_convolution_one_stays_where_all_are_lost(self) -> None:
        base = random_model("deberta-v2", conv_kernel_size=0)
        small = shrink(base, without_layers(0, 1))
        assert len(architecture_of("deberta-v2").layers(small)) == 1
        with torch.no_grad():
            assert small(**padded_batch("deberta-v2")).logits.isfinite().all()

    def test_position_projections_lose_their_rows_too(self) -> None:
        state = Base(tiny_model("deberta-v2")).cut(mixed(tiny_model("deberta-v2")))
        names = [n for n in state if "layer.0.attention.self.pos_" in n and n.endswith("weight")]
        assert len(names) == 2
        assert all(state[name].shape == (24, 32) for name in names)


class TestGpt2:
    RECIPES = (
        Recipe.of({SiteId(0, "attention"): {"heads": NO_HEADS}}),
        Recipe.of({SiteId(1, "attention"): {"heads": NO_HEADS}}),
        without_layers(0),
        Recipe.of(
            {
                SiteId(0, "attention"): {"heads": NO_HEADS},
                SiteId(1, "attention"): {
                    "heads": Kept(of=4, kept=(0, 3)),
                    "topk": Setting(value=3, mode="renormalised"),
                },
                SiteId(2, "ffn"): {"ffn": Kept(of=64, kept=tuple(range(20)))},
            }
        ),
    )

    @pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
    def test_generation_with_a_cache_is_generation_without(self, recipe: Recipe) -> None:
        base = random_model("gpt2", "AutoModelForCausalLM", num_hidden_layers=3)
        small = shrink(base, recipe)
        prompt = torch.tensor([[5, 9, 30, 2], [7, 7, 11, 40]])
        runs = [
            small.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=12,
                do_sample=False,
                use_cache=use_cache,
                return_dict_in_generate=True,
                output_logits=True,
            )
            for use_cache in (True, False)
        ]
        assert torch.equal(runs[0].sequences, runs[1].sequences)
        for cached, whole in zip(runs[0].logits, runs[1].logits, strict=True):
            torch.testing.assert_close(cached, whole, rtol=0, atol=1e-4)

    def test_fused_projections_lose_the_units_of_each_part(self) -> None:
        base = tiny_model("gpt2")
        state, whole = Base(base).cut(mixed(base)), base.state_dict()
        at = "transformer.h.0.attn."
        # Heads 0, 2 and 3, each 8 wide, of query, key and value, 32 each.
        columns = [32 * p + 8 * h + i for p in range(3) for h in (0, 2, 3) for i in range(8)]
        assert torch.equal(state[f"{at}c_attn.weight"], whole[f"{at}c_attn.weight"][:, columns])
        assert torch.equal(state[f"{at}c_attn.bias"], whole[f"{at}c_attn.bias"][columns])
        assert torch.equal(state[f"{at}c_proj.weight"], whole[f"{at}c_proj.weight"][columns[:24]])

    def test_scales_that_depend_on_the_layer_need_the_modeling_file(self) -> None:
        plain = tiny_model("gpt2")
        scaled = random_model("gpt2", scale_attn_by_inverse_layer_idx=True)
        assert Base(plain).plan(without_layers(0)).plain
        assert not Base(scaled).plan(without_layers(0)).plain


class TestModernBert:
    def test_a_layer_keeps_its_kind_of_attention(self) -> None:
        kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
        base = random_model("modernbert", num_hidden_layers=4, layer_types=kinds)
        for gone in ((0,), (1,), (0, 1), (1, 2), (0, 1, 2)):
            recipe = without_layers(*gone)
            left = [kind for number, kind in enumerate(kinds) if number not in gone]
            assert shrink(base, recipe).config.layer_types == left
            assert difference(base, recipe, short_batch("modernbert")) <= 1e-5
            # The first layer alone has no norm before its attention.
            assert Base(base).plan(recipe).plain is (0 not in gone)

    def test_the_layer_that_becomes_the_first_keeps_its_norm(self) -> None:
        base, family = tiny_model("modernbert"), architecture_of("modernbert")
        assert isinstance(family.layers(base)[0].attn_norm, nn.Identity)
        (layer,) = family.layers(shrink(base, without_layers(0)))
        assert isinstance(layer.attn_norm, nn.LayerNorm)
        assert torch.equal(layer.attn_norm.weight, family.layers(base)[1].attn_norm.weight)  # type: ignore[union-attr]

    def test_fused_and_gated_projections_lose_the_units_of_each_part(self) -> None:
        base = tiny_model("modernbert")
        recipe = mixed(base)
        state, whole = Base(base).cut(recipe), base.state_dict()
        rows = [32 * p + 8 * h + i for p in range(3) for h in (0, 2, 3) for i in range(8)]
        name = "model.layers.0.attn.Wqkv.weight"
        assert torch.equal(state[name], whole[name][rows])
        kept = recipe.at(0, "ffn")["ffn"].kept  # type: ignore[union-attr]
        name = "model.layers.0.mlp.Wi.weight"
        assert torch.equal(state[name], whole[name][[*kept, *(64 + unit for unit in kept)]])


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_positions_counted_from_the_padding_token(model_type: str) -> None:
    base, family = tiny_model(model_type), architecture_of(model_type)
    longest = family.longest(base.config)
    assert longest == LENGTH + 2 - base.config.pad_token_id - 1
    with torch.no_grad():
        assert base(**family.example(base.config, 4, longest)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            base(**family.example(base.config, 4, longest + 1))


@pytest.mark.parametrize("model_type", ["bert", "albert", "distilbert", "electra", "modernbert"])
def test_positions_counted_from_zero(model_type: str) -> None:
    assert architecture_of(model_type).longest(tiny_model(model_type).config) == LENGTH + 2


class TestVit:
    def test_longest_input_is_patches_and_the_class_token(self) -> None:
        base = tiny_model("vit")
        seen: list[int] = []
        layer = architecture_of("vit").layers(base)[0]
        handle = layer.register_forward_hook(lambda _, i, o: seen.append(i[0].shape[1]))
        with handle, torch.no_grad():
            base(**short_batch("vit"))
        assert seen == [architecture_of("vit").longest(base.config)] == [101]

    def test_a_removed_block_takes_its_norm_along(self) -> None:
        base = tiny_model("vit")
        recipe = Recipe.of(
            {
                SiteId(0, "attention"): {"heads": NO_HEADS},
                SiteId(1, "ffn"): {"ffn": NO_NEURONS},
            }
        )
        first, second = architecture_of("vit").layers(shrink(base, recipe))
        assert {name.split(".")[0] for name in first.state_dict()} == {"layernorm_after", "mlp"}
        assert {name.split(".")[0] for name in second.state_dict()} == {
            "attention",
            "layernorm_before",
        }


class TestMPNet:
    def test_each_head_keeps_its_own_position_bias(self) -> None:
        base, batch = tiny_model("mpnet"), short_batch("mpnet")
        answers = []
        for kept in itertools.combinations(range(4), 2):
            recipe = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=4, kept=kept)}})
            assert difference(base, recipe, batch) <= 1e-5
            with torch.no_grad():
                answers.append(shrink(base, recipe)(**batch).logits)
        assert len({tuple(answer.flatten().tolist()) for answer in answers}) == 6

    def test_topk_reaches_over_the_position_bias(self) -> None:
        base, batch = tiny_model("mpnet"), short_batch("mpnet")
        choices: dict[str, Choice] = {
            "heads": Kept(of=4, kept=(1, 3)),
            "topk": Setting(value=4, mode="hard"),
        }
        assert difference(base, Recipe.of({SiteId(0, "attention"): choices}), batch) <= 1e-5


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "gpt2", "modernbert", "vit"])
def test_topk_on_a_base_with_eager_attention(model_type: str) -> None:
    base, batch = random_model(model_type), short_batch(model_type)
    base.set_attn_implementation("eager")
    choices: dict[str, Choice] = {"topk": Setting(value=4, mode="renormalised")}
    recipe = Recipe.of({SiteId(1, "attention"): choices})
    expected = masked(base, recipe, batch)
    with torch.no_grad():
        found = shrink(base, recipe)(**batch).logits
        assert (found - base(**batch).logits).abs().max() > 1e-4
    torch.testing.assert_close(found, expected.logits, rtol=0, atol=1e-5)
    assert base.config._attn_implementation == "eager"
