"""A graph that was traced once serves all models of its structure, with their own weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.one_token.choice import Tokens
from axsearch.approximations.site import OUTSIDE, STACK, SiteId
from axsearch.errors import AxsearchError
from axsearch.graphs import structures
from axsearch.graphs.onnx import answers, example, taken
from axsearch.graphs.structures import graph_of, structure_key
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import random_model

A0, F0, A1 = SiteId(0, "attention"), SiteId(0, "ffn"), SiteId(1, "attention")


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that are traced."""
    seen: list[Any] = []
    real = structures.traced

    def traced(model: Any, *given: Any) -> Any:
        seen.append(model)
        return real(model, *given)

    monkeypatch.setattr(structures, "traced", traced)
    monkeypatch.setattr(structures, "_known", type(structures._known)(4))
    return seen


def units(heads: int, neurons: int) -> Recipe:
    sites: dict[SiteId, dict[str, Choice]] = {}
    for layer in (0, 1):
        sites[SiteId(layer, "attention")] = {"heads": Kept(of=4, kept=tuple(range(heads)))}
        sites[SiteId(layer, "ffn")] = {"ffn": Kept(of=64, kept=tuple(range(neurons)))}
    return Recipe.of(sites)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_models_that_differ_in_units_are_traced_once(kind: str, traces: list[Any]) -> None:
    base = random_model(kind)
    for recipe in (Recipe.of({}), units(2, 32), units(3, 16), units(1, 64)):
        small = shrink(base, recipe)
        graph = graph_of(small, example(small))
        names = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
        assert sum(map(len, names)) > 0
    assert len(traces) == 1


@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_so_are_those_whose_last_layer_computes_one_token(kind: str, traces: list[Any]) -> None:
    base = random_model(kind)
    narrow = {SiteId(OUTSIDE, STACK): {"one_token": Tokens(tokens=1)}}
    for recipe in (units(4, 64), units(2, 32), units(3, 16)):
        sites = {site: dict(own) for site, own in recipe.sites}
        small = shrink(base, Recipe.of({**sites, **narrow}))
        graph_of(small, example(small))  # which compares the answers
    assert len(traces) == 1


def test_a_family_that_writes_its_number_of_heads_is_traced_again(traces: list[Any]) -> None:
    base = random_model("deberta-v2")
    for recipe in (Recipe.of({}), units(2, 32)):
        small = shrink(base, recipe)
        graph_of(small, example(small))  # which compares the answers
    assert len(traces) == 2


@pytest.mark.parametrize(
    "sites",
    [
        {A0: {"heads": Kept(of=4, kept=())}},
        {F0: {"ffn": Kept(of=64, kept=())}},
        {A0: {"heads": Kept(of=4, kept=())}, F0: {"ffn": Kept(of=64, kept=())}},
        {A0: {"topk": Setting(value=8, mode="hard")}},
        {A1: {"topk": Setting(value=8, mode="hard")}},
    ],
)
def test_another_structure_has_another_key(sites: Any) -> None:
    base = random_model("bert")
    keys = {structure_key(base), structure_key(shrink(base, units(2, 32)))}
    assert len(keys) == 1
    assert structure_key(shrink(base, Recipe.of(sites))) not in keys


def test_a_graph_with_other_answers_is_traced_and_never_returned(
    traces: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = random_model("bert")
    graph_of(base, example(base))
    small = shrink(base, units(2, 32))
    real = structures._with_weights

    def wrong(structure: Any, model: Any) -> Any:
        changed = copy.deepcopy(model)  # which shares the tensor with the base
        with torch.no_grad():
            changed.classifier.bias += 1
        return real(structure, changed)

    monkeypatch.setattr(structures, "_with_weights", wrong)
    graph_of(small, example(small))
    assert traces == [base, small]
    monkeypatch.setattr(structures, "_differs", lambda *_: "a difference of 1.0e+00")
    with pytest.raises(AxsearchError, match="answers otherwise than it: a difference"):
        graph_of(small, example(small))


def test_inputs_that_a_batch_lacks_are_zeros() -> None:
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}
    found = taken(batch, ["input_ids", "token_type_ids"])
    assert found["input_ids"] is batch["input_ids"]
    assert found["token_type_ids"].equal(torch.zeros(2, 3, dtype=torch.int64))


def test_segments_are_in_the_example_where_the_model_takes_them() -> None:
    bert, distil = random_model("bert"), random_model("distilbert")
    assert "token_type_ids" in example(bert)
    assert "token_type_ids" not in example(bert, segments=False)
    assert "token_type_ids" not in example(distil)
    assert list(answers(bert, example(bert))) == ["logits"]
