"""Recipes as anything may have written them: read as they stand, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification

from axsearch.approximations import recorded
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.evaluation.size import parameter_count
from axsearch.models.base_model import Base
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.references import masked
from axsearch.testing.text import tiny_bert
from tests.faults.sentences import fuzz, sentence
from tests.mutations import KEYS, STRANGE, changed, doubled, parsed, spliced
from tests.recipes import JSON, RECIPES, described, meaning

NAMES = KEYS | st.sampled_from(
    [
        "of", "kept", "value", "mode", "heads", "ffn", "topk", "ffn_topk", "sha256", "version",
        "compensation", "layer00.ffn", "layer01.attention", "layer2.ffn", "layer999.attention",
    ]
)  # fmt: skip
DOCUMENTS = RECIPES.filter(lambda recipe: bool(recipe.sites)).map(Recipe.to_dict)
CHANGED = changed(DOCUMENTS, STRANGE | JSON, NAMES)
SLIGHTLY = changed(DOCUMENTS, st.integers(0, 100), st.sampled_from(["heads", "rank"]), most=1)
WRITTEN = DOCUMENTS.map(lambda data: json.dumps(data, indent=1))
TEXTS = st.one_of(
    WRITTEN,
    SLIGHTLY.map(json.dumps),
    CHANGED.map(json.dumps),
    doubled(DOCUMENTS),
    spliced(WRITTEN),
    JSON.map(json.dumps),
    st.text(),
)


def assert_read_rightly(read: Callable[[], Recipe], expected: dict[str, Any] | None) -> None:
    """What is read says what is expected, and stays the same written and read again."""
    try:
        recipe = read()
    except UsageError as error:
        sentence(error)
        assert expected is None
        return
    assert described(recipe) == expected
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert (again.hash, again.to_json()) == (recipe.hash, recipe.to_json())
    assert meaning(json.loads(recipe.to_json())) == expected


@fuzz(700)
@given(TEXTS)
def test_json_text(text: str) -> None:
    assert_read_rightly(lambda: Recipe.from_json(text), meaning(parsed(text)))


@fuzz(150)
@given(CHANGED | DOCUMENTS, STRANGE | st.just("right"), st.sampled_from(["utf-8", "utf-16"]))
def test_file(
    tmp_path_factory: pytest.TempPathFactory, data: Any, checksum: Any, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.json"
    if isinstance(data, dict) and checksum is not None:
        right = meaning(data) is not None and checksum == "right"
        data["sha256"] = Recipe.from_dict(data).hash if right else checksum
    body = {k: v for k, v in data.items() if k != "sha256"} if isinstance(data, dict) else data
    expected = meaning(body) if encoding == "utf-8" else None
    if expected is not None and "sha256" in data:
        expected = expected if data["sha256"] == Recipe.from_dict(body).hash else None
    path.write_bytes(json.dumps(data).encode(encoding))
    assert_read_rightly(lambda: Recipe.read(path), expected)


@fuzz(200)
@given(DOCUMENTS, st.data())
def test_edited_in_the_database(data: dict[str, Any], draw: st.DataObject) -> None:
    original = Recipe.from_dict(data)
    edits = st.just(data)
    text = draw.draw(
        spliced(edits.map(json.dumps))
        | doubled(edits)
        | changed(edits, STRANGE, NAMES).map(json.dumps)
    )
    same = meaning(parsed(text)) == described(original)
    assert_read_rightly(
        lambda: Recipe.from_stored(text, original.hash), described(original) if same else None
    )


LAYERS, HEADS, NEURONS = 3, 4, 64


@pytest.fixture(scope="module")
def base() -> BertForSequenceClassification:
    return tiny_bert(layers=LAYERS)


@st.composite
def fitting(draw: st.DrawFn) -> dict[str, Any]:
    """A recipe's JSON that fits the tiny model."""

    def kept(of: int) -> dict[str, Any]:
        some = draw(st.sets(st.integers(0, of - 1)) | st.just(set(range(of))))
        return {"of": of, "kept": sorted(some)}

    def k(modes: list[str], most: int) -> dict[str, Any]:
        return {"value": draw(st.integers(1, most)), "mode": draw(st.sampled_from(modes))}

    sites: dict[str, Any] = {}
    for layer in draw(st.sets(st.integers(0, LAYERS - 1), min_size=1)):
        attention = {"heads": kept(HEADS), "topk": k(["renormalised", "hard"], 12)}
        ffn = {"ffn": kept(NEURONS), "ffn_topk": k(["largest"], NEURONS - 1)}
        for kind, choices in (("attention", attention), ("ffn", ffn)):
            chosen = draw(st.sets(st.sampled_from(sorted(choices))))
            sites[f"layer{layer:02d}.{kind}"] = {name: choices[name] for name in sorted(chosen)}
    return {"version": 1, "sites": sites}


CHOICE = st.builds(
    lambda of, some: {"of": of, "kept": sorted(unit for unit in some if unit < of)},
    st.sampled_from([HEADS, NEURONS, 12]),
    st.sets(st.integers(0, NEURONS)),
) | st.fixed_dictionaries(
    {
        "value": st.sampled_from([1, 63, 64, 2**63]),
        "mode": st.sampled_from(["renormalised", "hard", "largest", "softest"]),
    }
)
SITE = st.sampled_from([f"layer0{n}.{kind}" for n in (0, 2, 3) for kind in ("attention", "ffn")])
NAME = st.sampled_from(["heads", "ffn", "topk", "ffn_topk", "layer", "head_mask", ""])
NEARLY = st.dictionaries(SITE, st.dictionaries(NAME, CHOICE, min_size=1, max_size=1), max_size=2)
"""What may fit the tiny model, or be for another."""


def fits(expected: dict[str, Any]) -> bool:
    """Whether a recipe, in the words of ``meaning``, is one for the tiny model."""
    for site, choices in expected["sites"].items():
        layer, kind = int(site[5:].split(".")[0]), site.split(".")[1]
        for name, choice in choices.items():
            right = {
                ("attention", "heads"): choice[:2] == ("kept", HEADS),
                ("ffn", "ffn"): choice[:2] == ("kept", NEURONS),
                ("attention", "topk"): choice[0] == "setting"
                and choice[2] in ("renormalised", "hard"),
                ("ffn", "ffn_topk"): choice[0] == "setting"
                and choice[2] == "largest"
                and choice[1] < NEURONS,
            }
            if layer >= LAYERS or not right.get((kind, name), False):
                return False
    return True


def left(expected: dict[str, Any], layer: int) -> dict[str, Any]:
    """What a recipe leaves of a layer of the tiny model."""
    attention = expected["sites"].get(f"layer{layer:02d}.attention", {})
    ffn = expected["sites"].get(f"layer{layer:02d}.ffn", {})
    topk, some = attention.get("topk"), ffn.get("ffn_topk")
    return {
        "heads": len(attention["heads"][2]) if "heads" in attention else HEADS,
        "ffn": len(ffn["ffn"][2]) if "ffn" in ffn else NEURONS,
        "topk": topk and {"value": topk[1], "mode": topk[2]},
        "ffn_topk": some and {"value": some[1], "mode": some[2]},
    }


@fuzz(300)
@given(data=fitting() | NEARLY.map(lambda sites: {"version": 1, "sites": sites}))
def test_a_model_takes_a_recipe_or_refuses_it(
    base: BertForSequenceClassification, data: dict[str, Any]
) -> None:
    expected = meaning(data)
    if expected is None:  # of a type that is not there, or a choice of another type
        with pytest.raises(UsageError) as refused:
            Recipe.from_dict(data)
        sentence(refused.value)
        return
    recipe = Recipe.from_dict(data)
    if not fits(expected):
        with pytest.raises(UsageError) as refused:
            Base(base).plan(recipe)
        sentence(refused.value)
        return
    shapes = {layer: left(expected, layer) for layer in range(LAYERS)}
    there = [layer for layer, shape in shapes.items() if shape["heads"] or shape["ffn"]]
    planned = Base(base).plan(recipe)
    assert list(planned.layers) == there
    for site in Base(base).sites.values():
        if site.units is None:
            continue
        chosen, shape = recipe.at(*site.id), shapes[site.id.layer]
        for name, one in recorded(site.id.kind).items():
            own = chosen.get(name)
            value = own.model_dump() if isinstance(own, Setting) else one.value(site, own)
            if shape["heads"] or shape["ffn"]:
                assert value == shape[name]
    gone = sum(parameters_gone(base, shape) for shape in shapes.values())
    assert parameter_count(Base(base).cut(recipe)) == base.num_parameters() - gone


def parameters_gone(base: BertForSequenceClassification, shape: dict[str, Any]) -> int:
    """How many numbers a layer of the tiny model loses."""
    width, hidden = base.config.hidden_size // HEADS, base.config.hidden_size
    lost_heads, lost_neurons = HEADS - shape["heads"], NEURONS - shape["ffn"]
    gone = lost_heads * (4 * hidden * width + 3 * width) + lost_neurons * (2 * hidden + 1)
    gone += 0 if shape["heads"] else hidden  # the output's bias
    gone += 0 if shape["ffn"] else hidden
    return gone + (0 if shape["heads"] or shape["ffn"] else 4 * hidden)  # its two norms


@fuzz(60)
@given(data=fitting())
def test_a_smaller_model_answers_as_the_recipe_says(
    base: BertForSequenceClassification, data: dict[str, Any]
) -> None:
    recipe = Recipe.from_json(json.dumps(data))
    ids = torch.randint(5, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = masked(base, recipe, batch)
    assume(expected.gap > 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(shrink(base, recipe)(**batch).logits, expected.logits)


def test_what_memory_could_not_hold_is_refused() -> None:
    for of, kept in ((10**12, [10**12 - 1]), (1_048_577, "1"), (1_048_576, "f" * 262_145)):
        choice = {"of": of, "kept": kept}
        data = {"version": 1, "sites": {"layer00.ffn": {"ffn": choice}}}
        assert_read_rightly(lambda d=data: Recipe.from_dict(d), None)  # type: ignore[misc]
    widest = Recipe.of({SiteId(0, "ffn"): {"ffn": Kept(of=1_048_576, kept=(1_048_575,))}})
    assert Recipe.from_json(widest.to_json()) == widest


def test_a_k_above_every_number_of_keys_takes_all_of_them(
    base: BertForSequenceClassification,
) -> None:
    ids = torch.arange(5, 17)[None]
    recipe = Recipe.of({SiteId(0, "attention"): {"topk": Setting(value=10**30, mode="hard")}})
    with torch.no_grad():
        torch.testing.assert_close(shrink(base, recipe)(ids).logits, base(ids).logits)
