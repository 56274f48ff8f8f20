"""Predictions of a model over a split, and what is kept of its layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation import accuracy
from axsearch.evaluation.accuracy import NonFiniteError, Predictions, Predictor, predict
from axsearch.models.architectures import architectures
from axsearch.models.base_model import Base
from axsearch.models.partial import prefixes_of
from axsearch.models.refit.compensation import Moments
from axsearch.models.refit.moments import measure_moments
from axsearch.models.refit.sample import SampleSize, measure_sample
from axsearch.models.weights import ClosedForm
from axsearch.space.recipe import Compensation, Recipe
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.kinds.sequences import encode
from axsearch.tasks.split import Split
from axsearch.testing.models import PICTURES, random_model, random_recipe
from axsearch.testing.text import tiny_bert, tiny_tokenizer

COUNT = 150


def split() -> Split:
    """Random texts of different lengths, in no order of length."""
    draw = np.random.default_rng(0)
    texts = [
        (" ".join(f"word{i}" for i in draw.integers(0, 40, draw.integers(1, 30))),)
        for _ in range(COUNT)
    ]
    return Split("search", encode(tiny_tokenizer(), texts, 48), np.zeros(COUNT, int), pad_id=0)


SPLIT, KIND = split(), task_kinds()["text-classification"]


def test_predictions_are_in_the_order_of_the_split() -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.weight *= 20  # or one class would win everywhere
        logits = torch.cat(
            [
                model(**{key: torch.tensor([values]) for key, values in example.items()}).logits
                for example in SPLIT.inputs
            ]
        )
        # Each class wins about half of the time.
        middle = logits.mean(0)
        model.classifier.bias -= middle
    alone = (logits - middle).argmax(-1).numpy()
    assert 0.2 < alone.mean() < 0.8
    np.testing.assert_array_equal(predict(model, SPLIT, KIND), alone)


def test_each_example_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 32)
    model, done = tiny_bert(), []
    model.register_forward_pre_hook(
        lambda _, __, given: done.append(len(given["input_ids"])), with_kwargs=True
    )
    predict(model, SPLIT, KIND)
    assert done == [32, 32, 32, 32, 22]


def test_batch_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    found = predict(model, SPLIT, KIND)
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 7)
    np.testing.assert_array_equal(predict(model, SPLIT, KIND), found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["classifier.bias", "bert.encoder.layer.1.output.dense.weight"])
def test_weights_that_are_not_finite(name: str, value: float) -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.get_parameter(name).flatten()[0] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        predict(model, SPLIT, KIND)


def test_a_failed_trial_is_no_wrong_use() -> None:
    assert issubclass(NonFiniteError, AxsearchError)
    assert not issubclass(NonFiniteError, UsageError)


# What layers gave is kept.

TEXT = [name for name in architectures() if name not in PICTURES]
LAYERS = 4
BINARY = task_kinds()["text-classification"]
EXACT = Recipe.of({})


@functools.cache
def deep_model(model_type: str) -> PreTrainedModel:
    """Four layers; ALBERT's are runs of two."""
    more: dict[str, Any] = {"num_hidden_layers": LAYERS}
    if model_type == "modernbert":
        more["layer_types"] = ["full_attention", "sliding_attention"] * 2
    return random_model(model_type, **more)


@functools.cache
def tokens(count: int = 40, seed: int = 0) -> Split:
    """Random ids of 3 to 24 tokens, of two classes."""
    draw = np.random.default_rng(seed)
    ids = [draw.integers(2, 60, draw.integers(3, 25)).tolist() for _ in range(count)]
    inputs = [{"input_ids": own, "attention_mask": [1] * len(own)} for own in ids]
    return Split("search", inputs, draw.integers(0, 2, count), pad_id=0, names=("a", "b"))


@functools.cache
def moments(model_type: str) -> Moments:
    return measure_moments(deep_base(model_type), tokens(), BINARY)


def mixed(model_type: str, number: int) -> Recipe:
    """One of three lower halves with any upper half, compensated or not."""
    draw = np.random.default_rng(number)
    ways: tuple[Compensation, ...] = ("none", "least_squares", "sequential")
    ways = ways[: 3 if repeats(model_type) == 1 else 2]
    lower = random_recipe(model_type, int(draw.integers(2))) if draw.random() < 0.7 else EXACT
    upper = random_recipe(model_type, 100 + number)
    sites = {site: dict(choices) for site, choices in lower.sites}
    if repeats(model_type) == 1:
        for site, choices in upper.sites:
            above = site if site.layer == OUTSIDE else site._replace(layer=site.layer + 2)
            sites[above] = dict(choices)
    return Recipe.of(sites, ways[int(draw.integers(len(ways)))])


@functools.cache
def deep_base(model_type: str) -> Base:
    return Base(deep_model(model_type))


@functools.cache
def weights(model_type: str) -> ClosedForm:
    base, few = deep_base(model_type), SampleSize(examples=12, tokens=200)
    return ClosedForm(
        base, moments(model_type), lambda: measure_sample(base, tokens(), BINARY, few)
    )


def repeats(model_type: str) -> int:
    return max(site.repeats for site in deep_base(model_type).sites.values())


def made(model_type: str, recipe: Recipe) -> PreTrainedModel:
    return weights(model_type).shrink(recipe)


@functools.cache
def made_once(model_type: str, number: int, user: str) -> PreTrainedModel:
    """The model of a mixed recipe; each user of them has its own, which shares nothing."""
    return made(model_type, mixed(model_type, number))


@pytest.fixture(scope="module", autouse=True)
def _models_are_dropped() -> Iterator[None]:
    yield
    made_once.cache_clear()


@functools.cache
def by_itself(model_type: str, number: int, dtype: str) -> tuple[Predictions, int]:
    """What a mixed recipe's model predicts with nothing kept, and how many layers that runs."""
    model, base = made_once(model_type, number, "alone"), deep_base(model_type)
    alone = Predictor(BINARY, memory=0)
    found = alone.predict(model, tokens(), base, None, dtype=dtype)
    return found, alone.layers_run


def assert_same(found: Predictions, wanted: Predictions) -> None:
    assert list(found.answers) == list(wanted.answers)
    np.testing.assert_array_equal(found.losses, wanted.losses)  # to the last bit


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 16)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("model_type", TEXT)
class TestKeeping:
    @pytest.mark.parametrize(
        ("memory", "dtype"),
        [(1 << 26, "float32"), (60_000, "float32"), (0, "float32"), (1 << 26, "bfloat16")],
        ids=["all", "little", "none", "bfloat16"],
    )
    def test_many_recipes_give_what_they_give_alone(
        self, model_type: str, memory: int, dtype: str
    ) -> None:
        keeping, base = Predictor(BINARY, memory=memory), deep_base(model_type)
        ran = whole = 0
        for number in range(24):
            number %= 20  # some come back
            recipe = mixed(model_type, number)
            model = made_once(model_type, number, "keeping")
            wanted, layers = by_itself(model_type, number, dtype)
            assert_same(keeping.predict(model, tokens(), base, recipe, dtype=dtype), wanted)
            assert keeping._outputs.currsize <= memory
            ran, whole = keeping.layers_run, whole + layers
        if memory == 0 or repeats(model_type) > 1:
            assert ran == whole
            assert len(keeping._outputs) == 0
        elif memory == 1 << 26:
            assert ran < (0.75 if dtype == "float32" else 0.85) * whole
        else:
            assert ran <= whole
            assert len(keeping._outputs) > 0

    def test_layers_below_the_change_are_not_run(self, model_type: str) -> None:
        keeping, base, split = Predictor(BINARY, memory=1 << 26), deep_base(model_type), tokens()
        keeping.predict(made(model_type, EXACT), split, base, EXACT)
        shared = repeats(model_type) > 1
        for layer in range(LAYERS // (2 if shared else 1)):
            before = keeping.layers_run
            kept = Kept(of=64, kept=tuple(range(0, 64, 2)))
            recipe = Recipe.of({SiteId(layer, "ffn"): {"ffn": kept}})
            model = made(model_type, recipe)
            assert_same(
                keeping.predict(model, split, base, recipe),
                Predictor(BINARY, memory=0).predict(model, split),
            )
            run = 2 if shared else LAYERS - layer
            assert keeping.layers_run - before == run * len(split)

    def test_nor_are_embeddings(self, model_type: str) -> None:
        keeping, base, split = Predictor(BINARY, memory=1 << 26), deep_base(model_type), tokens()
        keeping.predict(made(model_type, EXACT), split, base, EXACT)
        kept = Kept(of=64, kept=tuple(range(0, 64, 2)))
        for layer in (0, 1):
            recipe, ran = Recipe.of({SiteId(layer, "ffn"): {"ffn": kept}}), []
            model = made(model_type, recipe)
            lookups = [m for m in model.base_model.modules() if isinstance(m, nn.Embedding)]
            hook = lookups[0].register_forward_hook(lambda *_, ran=ran: ran.append(True))
            keeping.predict(model, split, base, recipe)
            hook.remove()
            spared = layer > 0 and base.family.embeddings is not None and repeats(model_type) == 1
            assert bool(ran) is not spared


@functools.cache
def bert_predictions(recipe: Recipe) -> Predictions:
    return Predictor(BINARY, memory=0).predict(made("bert", recipe), tokens())


def ffn(*layers: int, kept: int = 32) -> Recipe:
    """These layers with their first neurons alone; none of them for a block that is gone."""
    choice = Kept(of=64, kept=tuple(range(kept)))
    return Recipe.of({SiteId(layer, "ffn"): {"ffn": choice} for layer in layers})


def without_layers(*layers: int) -> Recipe:
    gone: dict[SiteId, dict[str, Choice]] = {}
    for layer in layers:
        gone[SiteId(layer, "attention")] = {"heads": Kept(of=4, kept=())}
        gone[SiteId(layer, "ffn")] = {"ffn": Kept(of=64, kept=())}
    return Recipe.of(gone)


def topk(layer: int) -> Recipe:
    return Recipe.of({SiteId(layer, "attention"): {"topk": Setting(value=2, mode="hard")}})


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (EXACT, EXACT, 3),
        (ffn(3), EXACT, 3),
        (ffn(0), EXACT, 0),
        (ffn(0), ffn(0, kept=31), 0),
        (ffn(0, 1), ffn(0, 2), 1),
        (without_layers(1), EXACT, 1),
        (without_layers(1), without_layers(2), 1),
        (without_layers(0), EXACT, 0),
        (without_layers(3), EXACT, 3),
        (without_layers(2, 3), EXACT, 2),
        (without_layers(0), without_layers(1), 0),
        (without_layers(0, 1, 2, 3), EXACT, 0),
        (topk(3), EXACT, 0),
        (topk(3), topk(2), 2),
    ],
    ids=lambda value: value.hash[:6] if isinstance(value, Recipe) else str(value),
)
def test_just_the_layers_that_two_recipes_share_are_skipped(
    first: Recipe, second: Recipe, shared: int
) -> None:
    for recipes in ((first, second), (second, first)):
        predictor = Predictor(BINARY, memory=1 << 26)
        for recipe in recipes:
            before = predictor.layers_run
            found = predictor.predict(made("bert", recipe), tokens(), deep_base("bert"), recipe)
            assert_same(found, bert_predictions(recipe))
        layers = len(made("bert", recipes[1]).bert.encoder.layer)
        # What the topmost layer gave is not kept.
        layers_of_first = len(made("bert", recipes[0]).bert.encoder.layer)
        skipped = min(shared, max(layers - 1, 0), max(layers_of_first - 1, 0))
        assert predictor.layers_run - before == (layers - skipped) * len(tokens())


def test_exact_layers_are_told_apart() -> None:
    """Two exact layers had the same hash: a layer was taken for the one below it."""
    hashes = prefixes_of(deep_base("bert"), EXACT, "float32")
    assert len(set(hashes)) == len(hashes) == LAYERS
    assert not set(hashes) & set(prefixes_of(deep_base("bert"), EXACT, "bfloat16"))
    some = [*prefixes_of(deep_base("bert"), without_layers(1), "float32")]
    assert len(some) == LAYERS - 1
    assert set(some) & set(hashes) == {hashes[0]}


def test_layers_that_share_their_parameters_are_never_skipped() -> None:
    assert prefixes_of(deep_base("albert"), EXACT, "float32") == []


def test_the_outputs_least_recently_used_are_forgotten() -> None:
    few = tokens(count=7)  # one batch
    each = 4 * 7 * int(few.lengths.max()) * 32  # bytes of what a layer returns, in float32
    first, second, third = (ffn(0, kept=kept) for kept in (1, 2, 3))

    def layers_run(predictor: Predictor, recipe: Recipe) -> int:
        before = predictor.layers_run
        found = predictor.predict(made("bert", recipe), few, deep_base("bert"), recipe)
        assert_same(found, Predictor(BINARY, memory=0).predict(made("bert", recipe), few))
        return (predictor.layers_run - before) // len(few)

    # All but the last layer's are kept: three of the recipe before, and the third of the first,
    # which is used again before the others must go.
    predictor = Predictor(BINARY, memory=4 * each)
    recipes = (first, second, first, third, first, second)
    assert [layers_run(predictor, recipe) for recipe in recipes] == [4, 4, 1, 4, 1, 4]
    assert predictor._outputs.currsize == 4 * each
    too_small = Predictor(BINARY, memory=each - 1)
    assert [layers_run(too_small, recipe) for recipe in (first, first)] == [4, 4]
    assert len(too_small._outputs) == 0


@pytest.mark.usefixtures("small_batches")
def test_another_split_is_not_mistaken_for_this_one() -> None:
    predictor, base = Predictor(BINARY, memory=1 << 26), deep_base("bert")
    for recipe in (EXACT, ffn(3)):
        for split in (tokens(), tokens(seed=1), tokens(count=7)):
            model = made("bert", recipe)
            alone = Predictor(BINARY, memory=0).predict(model, split)
            assert_same(predictor.predict(model, split, base, recipe), alone)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("where", [1, 3])
def test_layers_are_put_back_after_an_exception(where: int) -> None:
    predictor, base, recipe = Predictor(BINARY, memory=1 << 26), deep_base("bert"), ffn(3)
    predictor.predict(made("bert", EXACT), tokens(), base, EXACT)
    model = made("bert", recipe)
    layers = list(model.bert.encoder.layer)
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == where:
            raise KeyboardInterrupt

    hook = layers[3].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        predictor.predict(model, tokens(), base, recipe)
    hook.remove()
    assert list(model.bert.encoder.layer) == layers
    assert not any(module._forward_hooks for module in model.modules())
    assert_same(predictor.predict(model, tokens(), base, recipe), bert_predictions(recipe))


@pytest.mark.usefixtures("small_batches")
def test_a_recipe_that_is_not_finite_does_not_spoil_another() -> None:
    predictor, base = Predictor(BINARY, memory=1 << 26), deep_base("bert")
    broken = made("bert", ffn(2))
    with torch.no_grad():
        broken.bert.encoder.layer[2].output.dense.weight = nn.Parameter(
            torch.full((32, 32), np.nan)
        )
    with pytest.raises(NonFiniteError):
        predictor.predict(broken, tokens(), base, ffn(2))
    for recipe in (EXACT, ffn(3), ffn(1)):
        model = made("bert", recipe)
        found = predictor.predict(model, tokens(), base, recipe)
        assert_same(found, bert_predictions(recipe))


@pytest.mark.usefixtures("small_batches")
def test_losses_are_those_of_the_answers() -> None:
    model, split = made("bert", EXACT), tokens()
    found = Predictor(BINARY).predict(model, split)
    assert found.losses.dtype == np.float32
    for row in range(0, len(split), 5):
        with torch.inference_mode():
            logits = model(**split.collate([row])).logits[0].double().numpy()
        chances = np.exp(logits) / np.exp(logits).sum()
        assert found.losses[row] == pytest.approx(-np.log(chances[split.targets[row]]), abs=1e-5)
        assert found.answers[row] == chances.argmax()


def test_room_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 9000))
    assert Predictor(BINARY, "cuda:0")._outputs.maxsize == 1000
    assert Predictor(BINARY)._outputs.maxsize > 1000
