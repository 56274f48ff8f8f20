"""The smaller model against the masked base, and what shrinking leaves alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.modeling import Position, apply_choices
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.errors import UsageError
from axsearch.evaluation.size import parameter_count
from axsearch.models.architectures import architectures
from axsearch.models.architectures.modeling.blocks import NormOnlyAttention, NormOnlyOutput
from axsearch.models.base_model import Base
from axsearch.models.surgery import halves_of
from axsearch.models.weights import shrink
from axsearch.space.recipe import Compensation, Recipe
from axsearch.testing.models import PICTURES, random_model, short_batch, tiny_model
from axsearch.testing.models import random_recipe as family_recipe
from axsearch.testing.references import masked
from axsearch.testing.text import reviews, tiny_bert, tiny_tokenizer

LAYERS, HEADS, NEURONS, GROUP = 3, 4, 64, 8
TOLERANCE = 1e-5
BASE = tiny_bert(layers=LAYERS)
RANDOM_RECIPES = 50


def batch() -> dict[str, Tensor]:
    """Reviews of different lengths, so padded."""
    texts = [text for text, _ in reviews(6, seed=3)]
    encoded = dict(tiny_tokenizer()(texts, padding=True, return_tensors="pt"))
    assert (encoded["attention_mask"] == 0).any()
    return encoded


BATCH = batch()


def without(total: int, *gone: int) -> Kept:
    """All units but these."""
    return Kept(of=total, kept=tuple(i for i in range(total) if i not in gone))


NO_ATTENTION: dict[str, Choice] = {"heads": Kept(of=HEADS, kept=())}
NO_FFN: dict[str, Choice] = {"ffn": Kept(of=NEURONS, kept=())}


def no_layer(*layers: int) -> Recipe:
    """These layers removed."""
    return Recipe.of(
        {SiteId(layer, "attention"): NO_ATTENTION for layer in layers}
        | {SiteId(layer, "ffn"): NO_FFN for layer in layers}
    )


def random_recipe(seed: int) -> Recipe:
    """Any mixture: units, blocks and layers removed, and top-k in both modes."""
    draw = random.Random(seed)

    def units(total: int) -> Kept:
        if draw.random() < 0.2:
            return Kept(of=total, kept=())
        return Kept(of=total, kept=tuple(sorted(draw.sample(range(total), draw.randint(1, total)))))

    sites: dict[SiteId, dict[str, Choice]] = {}
    for layer in range(LAYERS):
        attention: dict[str, Choice] = {}
        if draw.random() < 0.7:
            attention["heads"] = units(HEADS)
        if draw.random() < 0.5:
            mode = draw.choice(("renormalised", "hard"))
            attention["topk"] = Setting(value=draw.randint(1, 12), mode=mode)
        sites[SiteId(layer, "attention")] = attention
        if draw.random() < 0.7:
            sites[SiteId(layer, "ffn")] = {"ffn": units(NEURONS)}
    return Recipe.of(sites)


def assert_same_as_masked(recipe: Recipe) -> None:
    with torch.no_grad():
        small = shrink(BASE, recipe)(**BATCH).logits
        changed = (small - BASE(**BATCH).logits).abs().max()
    # A reference that masks nothing would agree with a shrink that removes nothing.
    assert changed > TOLERANCE
    torch.testing.assert_close(small, masked(BASE, recipe, BATCH).logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("head", range(HEADS))
def test_one_head_removed(layer: int, head: int) -> None:
    assert_same_as_masked(Recipe.of({SiteId(layer, "attention"): {"heads": without(HEADS, head)}}))


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("start", range(0, NEURONS, GROUP))
def test_one_group_of_neurons_removed(layer: int, start: int) -> None:
    kept = without(NEURONS, *range(start, start + GROUP))
    assert_same_as_masked(Recipe.of({SiteId(layer, "ffn"): {"ffn": kept}}))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_attention_block_removed(layer: int) -> None:
    assert_same_as_masked(Recipe.of({SiteId(layer, "attention"): NO_ATTENTION}))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_ffn_block_removed(layer: int) -> None:
    assert_same_as_masked(Recipe.of({SiteId(layer, "ffn"): NO_FFN}))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_layer_removed(layer: int) -> None:
    recipe = no_layer(layer)
    assert_same_as_masked(recipe)
    assert len(shrink(BASE, recipe).bert.encoder.layer) == LAYERS - 1


@pytest.mark.parametrize("mode", ["renormalised", "hard"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_topk_at_one_layer(layer: int, mode: str) -> None:
    recipe = Recipe.of({SiteId(layer, "attention"): {"topk": Setting(value=3, mode=mode)}})
    assert_same_as_masked(recipe)


@pytest.mark.parametrize("fewer", [0, 1])
def test_topk_around_the_longest_input(fewer: int) -> None:
    length = BATCH["input_ids"].shape[1]
    topk = Setting(value=length - fewer, mode="hard")
    recipe = Recipe.of({SiteId(layer, "attention"): {"topk": topk} for layer in range(LAYERS)})
    with torch.no_grad():
        small, base = shrink(BASE, recipe)(**BATCH).logits, BASE(**BATCH).logits
    torch.testing.assert_close(small, masked(BASE, recipe, BATCH).logits, rtol=0, atol=TOLERANCE)
    # Only the rows without padding have a key to lose.
    full = BATCH["attention_mask"].all(1)
    assert torch.equal((small - base).abs().amax(1) > 1e-6, full & (fewer == 1))


def test_topk_on_a_base_with_eager_attention() -> None:
    eager = tiny_bert()
    eager.set_attn_implementation("eager")
    choices: dict[str, Choice] = {
        "topk": Setting(value=2, mode="renormalised"),
        "heads": without(HEADS, 1),
    }
    recipe = Recipe.of({SiteId(1, "attention"): choices})
    with torch.no_grad():
        small = shrink(eager, recipe)(**BATCH).logits
    torch.testing.assert_close(small, masked(eager, recipe, BATCH).logits, rtol=0, atol=TOLERANCE)
    assert eager.config._attn_implementation == "eager"


@pytest.mark.parametrize("seed", range(RANDOM_RECIPES))
def test_random_recipe(seed: int) -> None:
    assert_same_as_masked(random_recipe(seed))


def test_random_recipes_hold_every_kind_of_change() -> None:
    recipes = [random_recipe(seed) for seed in range(RANDOM_RECIPES)]
    assert len(set(recipes)) == RANDOM_RECIPES
    choices = [(name, choice) for recipe in recipes for _, name, choice in recipe.choices()]
    assert {c.mode for _, c in choices if isinstance(c, Setting)} == {"renormalised", "hard"}
    for name in ("heads", "ffn"):
        emptied = [not c.kept for n, c in choices if n == name and isinstance(c, Kept)]
        assert any(emptied)
        assert not all(emptied)
    assert any(r.removed(0, "attention") and r.removed(0, "ffn") for r in recipes)
    assert any({"heads", "topk"} <= set(r.at(0, "attention")) for r in recipes)


def test_no_layers_left() -> None:
    recipe = no_layer(*range(LAYERS))
    assert_same_as_masked(recipe)
    small = shrink(BASE, recipe)
    assert len(small.bert.encoder.layer) == small.config.num_hidden_layers == 0
    assert not any("encoder.layer" in name for name in small.state_dict())


def test_exact_recipe_gives_the_same_logits() -> None:
    with torch.no_grad():
        assert torch.equal(shrink(BASE, Recipe.of({}))(**BATCH).logits, BASE(**BATCH).logits)


@pytest.mark.parametrize("training", [False, True])
def test_base_is_untouched(training: bool) -> None:
    base = tiny_bert().train(training)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    structure, config = str(base), base.config.to_dict()
    required = [parameter.requires_grad for parameter in base.parameters()]
    with torch.no_grad():
        logits = base(**BATCH).logits
        for seed in range(10):
            small = shrink(base, random_recipe(seed))
            assert not small.training
            small(**BATCH)
        assert torch.equal(base(**BATCH).logits, logits)
    after = base.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (str(base), base.config.to_dict()) == (structure, config)
    assert [parameter.requires_grad for parameter in base.parameters()] == required
    assert all(module.training is training for module in base.modules())
    assert base.config._attn_implementation == "sdpa"


def test_unchanged_tensors_share_storage_with_the_base() -> None:
    recipe = Recipe.of(
        {SiteId(0, "attention"): {"heads": without(HEADS, 2)}}
        | {SiteId(1, "attention"): NO_ATTENTION, SiteId(1, "ffn"): NO_FFN}
        | {SiteId(2, "ffn"): {"ffn": without(NEURONS, 5)}}
    )
    small = shrink(BASE, recipe).state_dict()
    base = BASE.state_dict()
    own = []
    for name, tensor in small.items():
        # The base's third layer is the small model's second.
        origin = base[name.replace("encoder.layer.1.", "encoder.layer.2.")]
        if tensor.data_ptr() != origin.data_ptr():
            own.append(name.removeprefix("bert.encoder.layer."))
    attention = [
        f"attention.self.{p}.{t}" for p in ("query", "key", "value") for t in ("weight", "bias")
    ]
    assert sorted(own) == sorted(
        [f"0.{name}" for name in attention]
        + ["0.attention.output.dense.weight"]
        + ["1.intermediate.dense.weight", "1.intermediate.dense.bias", "1.output.dense.weight"]
    )


TYPES = [name for name in architectures() if name not in PICTURES]


def everything(model: PreTrainedModel) -> dict[str, object]:
    """All that a model is made of: its modules, what they hold, and every tensor's bits."""
    found: dict[str, object] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = {name: value for name, value in vars(module).items() if name != "config"}
        for name, value in own.items():
            if isinstance(value, dict):
                items: list[object] = [(key, id(item)) for key, item in value.items()]
                found[f"{path} {name}"] = items
            elif isinstance(value, list | set):
                found[f"{path} {name}"] = list(value)
            else:
                found[f"{path} {name}"] = id(value)
        found[f"{path} id"] = id(module)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"tensor {name}"] = (tensor.detach().numpy().tobytes(), tensor._version)
    return found


@pytest.mark.parametrize("model_type", architectures())
def test_shrinking_changes_nothing_of_the_base(model_type: str) -> None:
    base = random_model(model_type)
    inputs = short_batch(model_type)
    hook = base.base_model.register_forward_hook(lambda *_: None)
    before, config = everything(base), base.config.to_dict()
    private = {k: v for k, v in vars(base.config).items() if k.startswith("_")}
    for seed in range(12):
        small = shrink(base, family_recipe(model_type, seed))
        with torch.inference_mode():
            small(**inputs)
    assert everything(base) == before
    assert base.config.to_dict() == config
    assert {k: v for k, v in vars(base.config).items() if k.startswith("_")} == private
    hook.remove()


@pytest.mark.parametrize("model_type", architectures())
def test_modules_and_config_are_new_and_tensors_shared(model_type: str) -> None:
    base = tiny_model(model_type)
    small = shrink(base, Recipe.of({}))
    theirs = {id(module) for module in base.modules()}
    assert not any(id(module) in theirs for module in small.modules())
    # Nowhere within is there a way back to the base's modules or config.
    for module in small.modules():
        held = [*vars(module).values(), *module._modules.values()]
        assert not any(id(value) in theirs for value in held)
        assert base.config not in [value for value in held if value is base.config]
        assert all(value is small.config for value in held if value == base.config)
    assert [name for name, _ in small.named_modules()] == [name for name, _ in base.named_modules()]
    for ours, own in ((small.named_parameters(), base.named_parameters()),
                      (small.named_buffers(), base.named_buffers())):  # fmt: skip
        for (name, tensor), (same, origin) in zip(ours, own, strict=True):
            assert (name, tensor.data_ptr()) == (same, origin.data_ptr())


@pytest.mark.parametrize("model_type", architectures())
def test_no_tensor_is_copied_to_be_thrown_away(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Tensor, memo: object) -> Tensor:
        raise AssertionError("a tensor was copied")

    base = tiny_model(model_type)
    monkeypatch.setattr(Tensor, "__deepcopy__", never)
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", never)
    for seed in range(3):
        shrink(base, family_recipe(model_type, seed))


@pytest.mark.parametrize("model_type", TYPES)
def test_shrunk_models_do_not_influence_each_other(model_type: str) -> None:
    base, inputs = tiny_model(model_type), short_batch(model_type)
    recipes = [family_recipe(model_type, seed) for seed in range(6)]

    def logits(model: PreTrainedModel) -> Tensor:
        with torch.inference_mode():
            return model(**inputs).logits

    alone = [logits(shrink(base, recipe)) for recipe in recipes]
    models = [shrink(base, recipe) for recipe in recipes]
    models[0].config.num_labels = 7
    models[0].train()
    models[0].base_model.register_forward_hook(lambda *_: 1 / 0)
    for name in [name for name, _ in models[0].named_children()]:
        delattr(models[0], name)
    for model, wanted in list(zip(models, alone, strict=True))[:0:-1]:
        assert torch.equal(logits(model), wanted)
        assert model.config.num_labels == base.config.num_labels
        assert not any(module.training for module in model.modules())


def test_shared_layers_are_shared_in_the_smaller_model_too() -> None:
    base = tiny_model("albert")
    first = base.albert.encoder.albert_layer_groups[0]
    base.albert.encoder.again = first  # the same module by another name
    try:
        small = shrink(base, Recipe.of({}))
        assert small.albert.encoder.again is small.albert.encoder.albert_layer_groups[0]
        assert small.albert.encoder.again is not first
    finally:
        del base.albert.encoder.again


def test_sites_are_found_once_a_model_and_told_apart_by_model() -> None:
    base, other = tiny_bert(layers=2), tiny_bert(layers=3)
    first = Base(base).sites
    assert len(first) == 6
    assert len(Base(other).sites) == 8
    assert {site.length for site in Base(base, 40).sites.values()} == {40}
    assert Base(base).sites == first  # the length of another call is not kept
    first.clear()
    assert len(Base(base).sites) == 6


def test_exact_recipe_copies_no_weight() -> None:
    small = shrink(BASE, Recipe.of({})).state_dict()
    assert all(small[n].data_ptr() == t.data_ptr() for n, t in BASE.state_dict().items())


def test_tensors_are_really_smaller() -> None:
    recipe = Recipe.of(
        {
            SiteId(0, "attention"): {"heads": Kept(of=HEADS, kept=(0, 3))},
            SiteId(0, "ffn"): {"ffn": Kept(of=NEURONS, kept=tuple(range(10)))},
            SiteId(1, "attention"): NO_ATTENTION,
            SiteId(2, "ffn"): NO_FFN,
        }
    )
    small = shrink(BASE, recipe)
    first, second, third = small.bert.encoder.layer
    for projection in (
        first.attention.self.query,
        first.attention.self.key,
        first.attention.self.value,
    ):
        assert (projection.weight.shape, projection.bias.shape) == ((16, 32), (16,))
    assert first.attention.output.dense.weight.shape == (32, 16)
    assert first.intermediate.dense.weight.shape == (10, 32)
    assert first.output.dense.weight.shape == (32, 10)
    # Of a removed block the LayerNorm alone is left.
    assert set(second.attention.state_dict()) == {
        "output.LayerNorm.weight",
        "output.LayerNorm.bias",
    }
    assert set(third.output.state_dict()) == {"LayerNorm.weight", "LayerNorm.bias"}
    assert not third.intermediate.state_dict()
    # No masks: the module holds what the state dict holds, and nothing beside it.
    state = Base(BASE).cut(recipe)
    held = dict(small.state_dict())
    assert {n: t.shape for n, t in held.items()} == {n: t.shape for n, t in state.items()}
    assert sum(p.numel() for p in small.parameters()) == parameter_count(state)
    assert {n for n, _ in small.named_buffers()} == {n for n, _ in BASE.named_buffers()}
    assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))


def test_rows_are_those_of_the_kept_units() -> None:
    recipe = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=HEADS, kept=(1, 2))}})
    state, base = Base(BASE).cut(recipe), BASE.state_dict()
    at = "bert.encoder.layer.1.attention."
    assert torch.equal(state[f"{at}self.key.weight"], base[f"{at}self.key.weight"][8:24])
    assert torch.equal(state[f"{at}output.dense.weight"], base[f"{at}output.dense.weight"][:, 8:24])


BERT_BASE = BertConfig()


@pytest.mark.parametrize(
    ("site", "choices", "removed"),
    [
        (SiteId(3, "attention"), {"heads": without(12, 7)}, 196_800),
        (SiteId(3, "ffn"), {"ffn": without(3072, *range(512, 768))}, 393_472),
        (SiteId(3, "ffn"), {"ffn": Kept(of=3072, kept=())}, 4_722_432),
        (SiteId(3, "attention"), {"heads": Kept(of=12, kept=())}, 2_362_368),
    ],
    ids=["head", "256 neurons", "ffn block", "attention block"],
)
def test_parameters_removed_from_bert_base(
    site: SiteId, choices: dict[str, Choice], removed: int
) -> None:
    with torch.device("meta"):
        base = BertForSequenceClassification(BERT_BASE)
    recipe = Recipe.of({site: choices})
    before = sum(parameter.numel() for parameter in base.parameters())
    assert before - parameter_count(Base(base).cut(recipe)) == removed
    small = shrink(base, recipe)
    assert before - sum(parameter.numel() for parameter in small.parameters()) == removed


def test_a_layer_of_bert_base_takes_its_norms_along() -> None:
    with torch.device("meta"):
        base = BertForSequenceClassification(BERT_BASE)
    recipe = Recipe.of(
        {SiteId(0, "attention"): {"heads": Kept(of=12, kept=())}}
        | {SiteId(0, "ffn"): {"ffn": Kept(of=3072, kept=())}}
    )
    removed = parameter_count(base.state_dict()) - parameter_count(Base(base).cut(recipe))
    assert removed == 4_722_432 + 2_362_368 + 2 * 2 * 768


def test_plan_lists_the_layers_that_stay() -> None:
    recipe = Recipe.of(
        {SiteId(0, "attention"): NO_ATTENTION, SiteId(0, "ffn"): NO_FFN}
        | {
            SiteId(2, "attention"): {"topk": Setting(value=5, mode="hard")},
            SiteId(1, "ffn"): NO_FFN,
        }
    )
    wanted = Base(BASE).plan(recipe)
    assert wanted.layers == (1, 2)
    assert not wanted.plain
    first, second = shrink(BASE, recipe).bert.encoder.layer
    assert isinstance(first.output, NormOnlyOutput)
    assert not hasattr(first.attention.self, "topk")
    assert first.attention.self.num_attention_heads == HEADS
    assert (second.attention.self.topk, second.attention.self.topk_mode) == (5, "hard")
    assert second.attention.self.num_attention_heads == HEADS
    assert second.intermediate.dense.out_features == NEURONS


def test_modules_say_which_heads_and_how_many_neurons_a_token_uses() -> None:
    attention: dict[str, Choice] = {"heads": Kept(of=HEADS, kept=(1, 3))}
    ffn: dict[str, Choice] = {
        "ffn": without(NEURONS, 5),
        "ffn_topk": Setting(value=8, mode="largest"),
    }
    recipe = Recipe.of(
        {SiteId(0, "attention"): NO_ATTENTION, SiteId(1, "attention"): attention}
        | {SiteId(1, "ffn"): ffn}
    )
    first, second, _ = shrink(BASE, recipe).bert.encoder.layer
    assert isinstance(first.attention, NormOnlyAttention)
    assert first.intermediate.dense.out_features == NEURONS
    assert second.attention.self.kept_units == [1, 3]
    assert second.attention.self.num_attention_heads == 2
    assert second.attention.self.query.out_features == second.attention.self.all_head_size
    assert second.intermediate.dense.out_features == NEURONS - 1
    assert second.intermediate.intermediate_act_fn.k == 8


def test_a_family_is_told_where_each_layer_stands() -> None:
    recipe = Recipe.of(
        {SiteId(0, "attention"): NO_ATTENTION}
        | {SiteId(1, "attention"): NO_ATTENTION, SiteId(1, "ffn"): NO_FFN}
    )
    seen: list[Position] = []
    base = Base(tiny_bert(layers=LAYERS))
    base.family.set_layers(base.model, (0, 2))
    layout = replace(base.family.layout, finish=lambda _, position, __: seen.append(position))
    halves = halves_of(recipe)
    apply_choices(base.model, recipe.to_dict()["sites"], (0, 2), layout, halves)
    assert seen == [
        Position(0, frozenset({"attention"}), {"attention": 0, "ffn": 0}),
        Position(2, frozenset(), {"attention": 0, "ffn": 1}),
    ]


@pytest.mark.parametrize("layers", [(), (0,), (1, 2), (0, 1, 2)], ids=str)
def test_whole_layers_are_told_from_changed_ones(layers: tuple[int, ...]) -> None:
    assert Base(BASE).plan(no_layer(*layers)).plain
    for choices in (NO_ATTENTION, {"topk": Setting(value=3, mode="hard")}):
        assert not Base(BASE).plan(Recipe.of({SiteId(1, "attention"): choices})).plain


def test_sites_are_those_of_the_base() -> None:
    assert list(Base(BASE).sites) == [
        *(SiteId(layer, kind) for layer in range(LAYERS) for kind in ("attention", "ffn")),
        SiteId(OUTSIDE, "stack"),
        SiteId(OUTSIDE, "embeddings"),
    ]


@pytest.mark.parametrize(
    ("site", "choices", "message"),
    [
        (SiteId(9, "ffn"), NO_FFN, "layer09.ffn"),
        (SiteId(1, "ffn"), {"rank": Setting(value=4, mode="svd")}, "'rank' at layer01.ffn"),
        (SiteId(1, "ffn"), NO_ATTENTION, "'heads' at layer01.ffn"),
        (
            SiteId(1, "attention"),
            {"heads": Kept(of=12, kept=(0,))},
            "layer01.attention was made for 12 units",
        ),
        (SiteId(1, "attention"), {"attention_block": Kept(of=4, kept=())}, "'attention_block' at"),
        (SiteId(1, "attention"), {"topk_hard": Setting(value=4, mode="hard")}, "'topk_hard' at"),
        (SiteId(1, "attention"), {"ffn_topk": Setting(value=4, mode="largest")}, "'ffn_topk' at"),
    ],
    ids=[
        *("site", "approximation", "kind of site", "head count"),
        *("name in a genome only", "mode as a name", "top-k FFN of an attention"),
    ],
)
def test_recipe_of_another_model_is_refused(
    site: SiteId, choices: dict[str, Choice], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        shrink(BASE, Recipe.of({site: choices}))


@pytest.mark.parametrize(
    ("site", "choices"),
    [
        (SiteId(1, "attention"), {"heads": Setting(value=2, mode="hard")}),
        (SiteId(1, "ffn"), {"ffn": Setting(value=2, mode="hard")}),
        (SiteId(1, "attention"), {"topk": Kept(of=HEADS, kept=(0,))}),
        (SiteId(1, "attention"), {"topk": Kept(of=HEADS, kept=())}),
    ],
    ids=["heads with a setting", "ffn with a setting", "topk with units", "topk with no unit"],
)
def test_choice_of_the_wrong_form_is_refused(site: SiteId, choices: dict[str, Choice]) -> None:
    with pytest.raises(UsageError, match=str(site)):
        shrink(BASE, Recipe.of({site: choices}))


@pytest.mark.parametrize(
    ("site", "name", "mode"),
    [
        (SiteId(1, "attention"), "topk", "soft"),
        (SiteId(1, "attention"), "topk", "largest"),
        (SiteId(1, "ffn"), "ffn_topk", "hard"),
    ],
)
def test_unknown_topk_mode_is_refused(site: SiteId, name: str, mode: str) -> None:
    with pytest.raises(UsageError, match=f"has the mode '{mode}', not one of"):
        shrink(BASE, Recipe.of({site: {name: Setting(value=2, mode=mode)}}))


@pytest.mark.parametrize("way", ["bias", "least_squares"])
def test_a_compensated_recipe_needs_calibration_data(way: Compensation) -> None:
    recipe = Recipe.of({SiteId(1, "ffn"): {"ffn": without(NEURONS, 3)}}, way)
    with pytest.raises(UsageError, match=f"compensation '{way}', which needs calibration data"):
        shrink(BASE, recipe)
    shapes = {name: tensor.shape for name, tensor in Base(BASE).cut(recipe).items()}
    plain = Recipe.of({site: dict(choices) for site, choices in recipe.sites})
    assert shapes == {name: tensor.shape for name, tensor in Base(BASE).cut(plain).items()}
