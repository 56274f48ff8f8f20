"""Costs that are known before a model is made, against models that were made."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest
from transformers import PreTrainedModel

from axsearch.approximations import Level
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId, SiteKind
from axsearch.calibration.costs import FASTER, latency_cost, size_cost, size_table, slower_levels
from axsearch.evaluation.size import safetensors_bytes
from axsearch.models.architectures import architectures
from axsearch.models.base_model import Base
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import Recipe
from axsearch.testing.models import every_site, random_model, random_recipe, tiny_model
from axsearch.testing.problems import sites_of

NOTHING: dict[SiteKind, tuple[str, int]] = {"attention": ("heads", 4), "ffn": ("ffn", 64)}


def gone(*sites: tuple[int, SiteKind]) -> Recipe:
    return Recipe.of(
        {SiteId(n, k): {NOTHING[k][0]: Kept(of=NOTHING[k][1], kept=())} for n, k in sites}
    )


REMOVALS = {
    "nothing": gone(),
    "an attention block": gone((0, "attention")),
    "an FFN block": gone((1, "ffn")),
    "the first layer": gone((0, "attention"), (0, "ffn")),
    "the last layer": gone((1, "attention"), (1, "ffn")),
    "a block and a layer": gone((0, "ffn"), (1, "attention"), (1, "ffn")),
    "every layer": gone(*((n, k) for n in (0, 1) for k in NOTHING)),
}


def data_bytes(model: PreTrainedModel, recipe: Recipe) -> int:
    return sum(tensor.nbytes for tensor in Base(model).cut(recipe).values())


def size(model: PreTrainedModel, recipe: Recipe, layers: int = 2) -> float:
    cost = size_cost(size_table(Base(model)))
    return cost.rest + sum(cost.layer(recipe, layer) for layer in range(layers))


@pytest.mark.parametrize("model_type", architectures())
class TestSize:
    def check(self, model_type: str, recipe: Recipe) -> None:
        model = tiny_model(model_type)
        base = safetensors_bytes(model.state_dict())
        header = base - data_bytes(model, gone())
        found = size(model, recipe)
        # To the byte, but for the header, which is taken to be the base's.
        assert found * base == pytest.approx(data_bytes(model, recipe) + header, abs=1e-3)
        file = safetensors_bytes(Base(model).cut(recipe))
        assert file <= found * base + 200
        assert found * base - file <= header

    @pytest.mark.parametrize("name", REMOVALS)
    def test_blocks_and_layers_that_are_gone(self, model_type: str, name: str) -> None:
        self.check(model_type, REMOVALS[name])

    @pytest.mark.parametrize("seed", range(8))
    def test_any_mixture(self, model_type: str, seed: int) -> None:
        self.check(model_type, random_recipe(model_type, seed))


@pytest.mark.parametrize("model_type", ["albert", "bert", "modernbert"])
def test_size_of_a_larger_model_is_that_of_its_file(model_type: str) -> None:
    # Of a useful size, beside which the header hardly shows.
    model = random_model(model_type, hidden_size=256, intermediate_size=1024, vocab_size=4000)
    base = safetensors_bytes(model.state_dict())
    half = {"heads": Kept(of=4, kept=(1, 3))}
    some = {"ffn": Kept(of=1024, kept=tuple(range(0, 1024, 3)))}
    everything = {"heads": Kept(of=4, kept=())}, {"ffn": Kept(of=1024, kept=())}
    for recipe in (
        Recipe.of({SiteId(0, "attention"): half, SiteId(1, "ffn"): some}),
        Recipe.of({SiteId(0, "ffn"): everything[1], SiteId(1, "attention"): everything[0]}),
        Recipe.of({SiteId(1, "attention"): everything[0], SiteId(1, "ffn"): everything[1]}),
    ):
        file = safetensors_bytes(Base(model).cut(recipe))
        assert size(model, recipe) == pytest.approx(file / base, rel=1e-3)
        assert file < 0.95 * base


def test_types_of_other_widths() -> None:
    model = random_model("bert").half()
    recipe = random_recipe("bert", 1)
    base = safetensors_bytes(model.state_dict())
    header = base - data_bytes(model, gone())
    assert size(model, recipe) * base == pytest.approx(data_bytes(model, recipe) + header)


def table(blocks: Mapping[str, float], layers: int = 2) -> LatencyTable:
    return LatencyTable(0.1, blocks, dict.fromkeys(range(layers), 1))


def test_latency_is_the_table() -> None:
    there = table({"attention": 0.2, "ffn": 0.25, "attention heads=2": 0.15})
    cost = latency_cost(there)
    recipe = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=4, kept=(0, 1))}})
    total = cost.rest + cost.layer(recipe, 0) + cost.layer(recipe, 1)
    assert total == pytest.approx(0.95) == there.ratio(recipe)


def space(
    names: Collection[str], counts: Mapping[SiteKind, int] | None = None, length: int = 40
) -> SearchSpace:
    sites = sites_of(2, counts or {"attention": 6, "ffn": 8}, length)
    return SearchSpace(sites, {s.id: range(s.count) for s in sites}, names=names)


def timed(kind: str, name: str, exact: float, shares: Mapping[str, float]) -> dict[str, float]:
    return {kind: exact} | {f"{kind} {name}={value}": share for value, share in shares.items()}


def dropped(space: SearchSpace, blocks: Mapping[str, float]) -> dict[str, list[Level]]:
    return {name: list(levels) for name, levels in slower_levels(space, table(blocks)).items()}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # Each 10 % faster than the one before.
        ((0.9, 0.8, 0.7, 0.6, 0.5, 0.1), []),
        # 5 % of what is fastest so far, just so and just not.
        ((0.95, 0.9025, 0.8574, 0.8, 0.7, 0.1), [3]),
        ((0.96, 0.94, 0.91, 0.89, 0.7, 0.1), [5, 3]),
        # Slower than a less approximate one.
        ((0.5, 0.6, 0.49, 0.4, 0.45, 0.1), [4, 3, 1]),
        # A removed block stays, whatever it takes.
        ((0.9, 0.8, 0.7, 0.6, 0.5, 1.2), []),
        ((1.1, 1.0, 0.99, 0.98, 1.3, 0.97), [5, 4, 3, 2, 1]),
    ],
)
def test_levels_that_are_not_faster_are_dropped(
    shares: Sequence[float], expected: list[int]
) -> None:
    names = [str(kept) for kept in (5, 4, 3, 2, 1, 0)]
    blocks = timed(
        "attention", "heads", 0.2, {n: 0.2 * s for n, s in zip(names, shares, strict=True)}
    )
    found = dropped(space(["heads"]), blocks)
    assert found == ({f"layer0{n}.heads": expected for n in (0, 1)} if expected else {})
    assert FASTER == 0.05
    # The space takes them.
    wanted = space(["heads"]).to_dict()["layer00.heads"]
    sites = [d.sites[0] for d in space(["heads"]).dimensions]
    every = SearchSpace(sites, {s.id: range(6) for s in sites}, names=["heads"], dropped=found)
    assert every.to_dict()["layer00.heads"] == [v for v in wanted if v not in expected]


@pytest.mark.parametrize(
    ("error", "expected"), [(0.0, [32, 8]), (0.02, [32, 8]), (0.03, [32]), (0.1, [])]
)
def test_a_level_that_may_be_faster_stays(error: float, expected: list[int]) -> None:
    """1.1 and 0.89 of the base, where 0.95 and 0.855 would do: by how many standard errors?"""
    shares = {f"{k}.renormalised": share for k, share in ((32, 1.1), (16, 0.9), (8, 0.93))}
    blocks = timed("attention", "topk", 1.0, shares)
    errors = dict.fromkeys([key for key in blocks if " " in key], error)
    there = replace(table(blocks), errors=errors)
    found = slower_levels(space(["topk"]), there)
    assert list(found.get("layer00.topk", [])) == expected


def test_top_k_that_saves_no_time_is_dropped() -> None:
    shares = {f"{k}.renormalised": share for k, share in ((32, 1.1), (16, 0.9), (8, 0.89))}
    found = dropped(space(["topk"]), timed("attention", "topk", 1.0, shares))
    assert found["layer00.topk"] == [32, 8]


def test_the_only_k_of_short_inputs_may_be_dropped_too() -> None:
    short = space(["topk"], length=12)
    assert short.to_dict()["layer00.topk"] == [None, 8]
    blocks = {"attention": 0.2, "attention topk=8.renormalised": 0.21}
    assert dropped(short, blocks) == {f"layer0{n}.topk": [8] for n in (0, 1)}
    faster = {"attention": 0.2, "attention topk=8.renormalised": 0.1}
    assert dropped(short, faster) == {}


@pytest.mark.parametrize("heads", [2, 6])
def test_parts_of_a_mask_are_never_dropped(heads: int) -> None:
    masks = space(["head_mask", "ffn_mask"], {"attention": heads, "ffn": 8})
    blocks = {"attention": 0.2, f"attention heads={heads - 1}": 0.21, "ffn": 0.2, "ffn ffn=7": 0.2}
    assert dropped(masks, blocks) == {}


def test_blocks_and_layers_that_go_as_a_whole_are_never_dropped() -> None:
    blocks = {"attention": 0.2, "ffn": 0.2, "attention heads=0": 0.21, "ffn ffn=0": 0.2}
    assert dropped(space(["attention_block", "ffn_block", "layer"]), blocks) == {}


def test_every_family_has_the_sites_that_the_recipes_here_name() -> None:
    for model_type in architectures():
        counts = {str(s.id): s.count for s in every_site(model_type) if s.units is not None}
        wanted = {str(SiteId(n, k)): NOTHING[k][1] for n in (0, 1) for k in NOTHING}
        assert json.dumps(counts, sort_keys=True) == json.dumps(wanted, sort_keys=True)
