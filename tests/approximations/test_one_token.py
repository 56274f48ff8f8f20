"""A last layer that computes one token answers as the whole layer does."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.one_token.choice import Tokens
from axsearch.approximations.site import ONE_TOKEN, OUTSIDE, SELECTABLE_SCORES, STACK, SiteId
from axsearch.errors import UsageError
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.base_model import Base
from axsearch.models.partial import prefixes_of
from axsearch.models.weights import shrink
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import EXACT, Recipe
from axsearch.testing.models import PICTURES, padded_batch, random_model, random_recipe, tiny_model

NARROWING = {SiteId(OUTSIDE, STACK): {"one_token": Tokens(tokens=1)}}
TOLERANCE = 1e-5
HAVING = [name for name, family in architectures().items() if STACK in family.layout.outside]


def narrowed(recipe: Recipe) -> Recipe:
    sites = {site: dict(choices) for site, choices in recipe.sites}
    return Recipe.of({**sites, **NARROWING}, recipe.compensation)


def last_output(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, list[Any]]:
    """The logits, and what the last layer's FFN receives."""
    seen: list[Any] = []
    family = architecture_of(model.config.model_type)
    ffn = family.layout.blocks["ffn"].inputs[0]
    last = family.layers(model)[-1].get_submodule(ffn)
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        logits: Tensor = model(**batch).logits
    hook.remove()
    return logits, seen


def difference(base: PreTrainedModel, recipe: Recipe, batch: dict[str, Tensor]) -> float:
    with torch.no_grad():
        whole = shrink(base, recipe)(**batch).logits
        one = shrink(base, narrowed(recipe))(**batch).logits
    return float((whole - one).abs().max())


def test_every_family_but_one_whose_layers_are_one_module_has_it() -> None:
    assert set(architectures()) - set(HAVING) == {"albert"}


@pytest.mark.parametrize("model_type", HAVING)
def test_the_answers_are_those_of_the_whole_layer(model_type: str) -> None:
    base, batch = tiny_model(model_type), padded_batch(model_type)
    for seed in range(30):
        recipe = random_recipe(model_type, seed, ["heads", "ffn", "topk", "ffn_topk"])
        assert difference(base, recipe, batch) <= TOLERANCE, recipe.to_json()


@pytest.mark.parametrize("model_type", HAVING)
def test_only_one_token_reaches_the_ffn(model_type: str) -> None:
    base, batch = tiny_model(model_type), padded_batch(model_type)
    tokens = architecture_of(model_type).longest(base.config) if model_type in PICTURES else 96
    whole, before = last_output(base, batch)
    one, after = last_output(shrink(base, narrowed(EXACT)), batch)
    assert [shape[1] for shape in before] == [tokens]
    assert [shape[1] for shape in after] == [1]
    assert (whole - one).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("deberta-v2", {"share_att_key": True}),
        ("deberta-v2", {"pos_att_type": ["c2p"]}),
        ("deberta-v2", {"pos_att_type": ["p2c"]}),
        ("deberta-v2", {"relative_attention": False, "conv_kernel_size": 0}),
        ("deberta-v2", {"num_hidden_layers": 1}),  # whose tokens a convolution reads
        ("deberta-v2", {"position_buckets": -1}),
        ("modernbert", {"attention_bias": True, "norm_bias": True}),
        ("modernbert", {"layer_types": ["sliding_attention", "full_attention"]}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("vit", {"qkv_bias": False}),
    ],
)
def test_settings_of_a_config(model_type: str, config: dict[str, Any]) -> None:
    base, batch = random_model(model_type, **config), padded_batch(model_type)
    assert difference(base, EXACT, batch) <= TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_reads_its_last_token(side: str) -> None:
    """Wherever the padding is, and whatever the mask says of a token that looks like padding."""
    base, batch = random_model("gpt2"), padded_batch("gpt2")
    if side == "left":
        batch = {name: tensor.flip(1) for name, tensor in batch.items()}
    assert difference(base, EXACT, batch) <= TOLERANCE
    batch["input_ids"][0, -1] = base.config.pad_token_id
    assert difference(base, EXACT, batch) <= TOLERANCE
    assert difference(base, EXACT, {"input_ids": batch["input_ids"]}) <= TOLERANCE
    with torch.no_grad():
        embedded = {"inputs_embeds": base.transformer.wte(batch["input_ids"][:1])}
    assert difference(base, EXACT, embedded) <= TOLERANCE


@pytest.mark.parametrize("mode", ["renormalised", "hard"])
@pytest.mark.parametrize("k", [1, 5, 96, 200])
def test_any_k(k: int, mode: str) -> None:
    """Also above the length of the input."""
    for model_type in HAVING:
        base, batch = tiny_model(model_type), padded_batch(model_type)
        if SELECTABLE_SCORES in architecture_of(model_type).lacks:
            continue
        recipe = Recipe.of({SiteId(1, "attention"): {"topk": Setting(value=k, mode=mode)}})
        assert difference(base, recipe, batch) <= TOLERANCE, model_type


def test_it_is_the_last_layer_that_stays() -> None:
    base, batch = tiny_model("bert"), padded_batch("bert")
    gone = {
        SiteId(1, "attention"): {"heads": Kept(of=4, kept=())},
        SiteId(1, "ffn"): {"ffn": Kept(of=64, kept=())},
    }
    assert difference(base, Recipe.of(gone), batch) <= TOLERANCE
    _, seen = last_output(shrink(base, narrowed(Recipe.of(gone))), batch)
    assert [shape[1] for shape in seen] == [1]


@pytest.mark.parametrize(
    ("model_type", "more", "reason"),
    [
        ("bert", {"auto_class": "AutoModelForTokenClassification"}, "reads every token"),
        ("gpt2", {"auto_class": "AutoModelForQuestionAnswering"}, "reads every token"),
        ("modernbert", {"classifier_pooling": "mean"}, "the mean of all tokens"),
    ],
)
def test_a_head_that_reads_more_refuses_it(
    model_type: str, more: dict[str, Any], reason: str
) -> None:
    base = random_model(model_type, **more)
    sites = list(Base(base).sites.values())
    assert reason in sites[-1].lacks[ONE_TOKEN]
    with pytest.raises(UsageError, match=reason):
        shrink(base, narrowed(EXACT))
    orders = {site.id: range(site.count) for site in sites}
    assert not any(d.name == "stack.one_token" for d in SearchSpace(sites, orders).dimensions)
    with pytest.raises(UsageError, match=reason):
        SearchSpace(sites, orders, names=["heads", "one_token"])


def test_nothing_makes_up_for_it() -> None:
    assert narrowed(EXACT).lossy == EXACT
    alone = Recipe.of(NARROWING, "sequential")  # type: ignore[arg-type]
    assert alone.compensation == "none"


def test_layers_below_the_last_are_shared_with_the_recipe_without_it() -> None:
    base = Base(tiny_model("bert"))
    recipe = Recipe.of({SiteId(0, "ffn"): {"ffn": Kept(of=64, kept=(1, 2))}})
    with_it, without = (prefixes_of(base, one, "float32") for one in (narrowed(recipe), recipe))
    assert with_it[0] == without[0]
    assert with_it[1] != without[1]


def test_it_runs_in_bfloat16() -> None:
    for model_type in HAVING:
        base, batch = random_model(model_type), padded_batch(model_type)
        half = {n: t.bfloat16() if t.is_floating_point() else t for n, t in batch.items()}
        with torch.no_grad():
            exact = base(**batch).logits
            small = shrink(base, narrowed(EXACT)).to(torch.bfloat16)
            found = small(**half).logits
            whole = base.to(torch.bfloat16)(**half).logits
        assert found.dtype == torch.bfloat16
        # No further from float32 than the whole layer in bfloat16 is, give or take its rounding.
        apart = (whole.float() - exact).abs().max()
        assert (found.float() - exact).abs().max() <= 2 * apart + 0.02


def test_threads_do_not_see_each_other_s_states() -> None:
    """As where a server runs one model in several."""
    for model_type in ("bert", "gpt2", "modernbert"):
        small = shrink(tiny_model(model_type), narrowed(EXACT))
        batch = padded_batch(model_type)
        rows = [{name: tensor[n : n + 1] for name, tensor in batch.items()} for n in range(3)]

        def answer(row: dict[str, Tensor], small: PreTrainedModel = small) -> Tensor:
            with torch.no_grad():
                logits: Tensor = small(**row).logits
            return logits

        expected = [answer(row) for row in rows]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(answer, rows * 20))
        assert all(torch.equal(one, expected[n % 3]) for n, one in enumerate(found))


def test_it_is_copied_and_pickled(tmp_path: Path) -> None:
    small, batch = shrink(tiny_model("bert"), narrowed(EXACT)), padded_batch("bert")
    torch.save(small, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    with torch.no_grad():
        expected = small(**batch).logits
        for other in (copy.deepcopy(small), loaded):
            assert torch.equal(other(**batch).logits, expected)
            assert type(other.bert.encoder.layer[-1]) is type(small.bert.encoder.layer[-1])


def test_a_mask_for_flash_attention_has_two_dimensions() -> None:
    """It is each row's own."""
    small, batch = shrink(tiny_model("bert"), narrowed(EXACT)), padded_batch("bert")
    layer = small.bert.encoder.layer[-1]
    states = torch.randn(3, 96, 32)
    flat = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = layer(states, flat[:, None, None])
        assert torch.equal(layer(states, flat), expected)
        assert not torch.equal(layer(states, None), expected)


@pytest.mark.parametrize("model_type", [name for name in HAVING if name not in PICTURES])
def test_padding_on_the_left(model_type: str) -> None:
    """Where the first token is one, and may in a local window attend to nothing."""
    base, batch = tiny_model(model_type), padded_batch(model_type)
    left = {name: tensor.flip(1) for name, tensor in batch.items()}
    assert difference(base, EXACT, left) <= TOLERANCE
