"""The warm start of a study."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import tiny_bert

from axsearch.approximations import Site
from axsearch.calibration.importance import Importance
from axsearch.calibration.ladder import SHARES, ladder
from axsearch.evaluation.size import parameter_count
from axsearch.recipe import SiteId
from axsearch.space import SearchSpace
from axsearch.surgery import sites_by_id, sliced_state

BASE = tiny_bert()
SITES = sites_by_id(BASE, length=40)


def importance_of(draw: np.random.Generator) -> Importance:
    """Scores over many orders of magnitude, as Fisher information has them."""

    def scores(site: Site) -> np.ndarray:
        return np.exp(draw.normal(0, 3, site.units.count) + draw.normal(0, 2))

    return Importance({id_: scores(site) for id_, site in SITES.items()})


def space_of(importance: Importance) -> SearchSpace:
    return SearchSpace(list(SITES.values()), {site: importance.order(site) for site in SITES})


@pytest.mark.parametrize("seed", range(10))
class TestAnyImportance:
    def rungs(self, seed: int) -> tuple[SearchSpace, list[dict[str, int]]]:
        importance = importance_of(np.random.default_rng(seed))
        space = space_of(importance)
        return space, ladder(space, importance)

    def test_begins_with_the_exact_model(self, seed: int) -> None:
        space, genomes = self.rungs(seed)
        assert genomes[0] == space.exact()
        assert len(genomes) > len(SHARES) / 2

    def test_sizes_shrink(self, seed: int) -> None:
        space, genomes = self.rungs(seed)
        sizes = [parameter_count(sliced_state(BASE, space.recipe(genome))) for genome in genomes]
        assert all(larger > smaller for larger, smaller in itertools.pairwise(sizes))

    def test_nothing_that_was_removed_comes_back(self, seed: int) -> None:
        _, genomes = self.rungs(seed)
        for before, after in itertools.pairwise(genomes):
            assert all(before[name] <= after[name] for name in before)
            assert before != after

    def test_levels_are_those_of_the_space(self, seed: int) -> None:
        space, genomes = self.rungs(seed)
        for genome in genomes:
            assert set(genome) == set(space.distributions())
            for name, levels in space.distributions().items():
                assert levels.low <= genome[name] <= levels.high

    def test_choices_that_remove_nothing_stay_exact(self, seed: int) -> None:
        space, genomes = self.rungs(seed)
        others = [name for name in space.distributions() if name.endswith(".topk")]
        assert others
        assert not any(genome[name] for genome in genomes for name in others)


def test_the_least_important_goes_first_whatever_its_layer() -> None:
    # The FFN of layer 1 holds a sixth of what can be removed, and is worth nothing.
    draw = np.random.default_rng(0)
    scores = {site: 1 + draw.random(described.units.count) for site, described in SITES.items()}
    scores[SiteId(1, "ffn")] = np.arange(64) * 1e-9
    importance = Importance(scores)
    space = space_of(importance)
    genomes = ladder(space, importance)
    removed = space.distributions()["layer01.ffn"].high
    assert {name for name, level in genomes[1].items() if level} == {"layer01.ffn"}
    for genome in genomes[1:]:
        others = [name for name, level in genome.items() if level and name != "layer01.ffn"]
        assert not others or genome["layer01.ffn"] == removed


def test_importance_is_weighed_against_parameters() -> None:
    # A head scores twice what a neuron does, but holds 16 times as many parameters.
    scores = {
        site: np.full(described.units.count, 2.0 if site.kind == "attention" else 1.0)
        for site, described in SITES.items()
    }
    importance = Importance(scores)
    space = space_of(importance)
    first = ladder(space, importance)[1]
    assert {name.split(".")[1] for name, level in first.items() if level} == {"heads"}


def test_last_rung_removes_most_of_the_model() -> None:
    importance = importance_of(np.random.default_rng(3))
    space = space_of(importance)
    removable = sum(site.units.count * site.unit_parameters for site in SITES.values())
    everything = parameter_count(BASE.state_dict())
    last = parameter_count(sliced_state(BASE, space.recipe(ladder(space, importance)[-1])))
    assert (everything - last) / removable == pytest.approx(SHARES[-1], abs=0.1)


class TestOtherApproximations:
    IMPORTANCE = importance_of(np.random.default_rng(1))

    def rungs(self, *names: str, frozen: tuple[SiteId, ...] = ()) -> list[dict[str, int]]:
        orders = {site: self.IMPORTANCE.order(site) for site in SITES}
        space = SearchSpace(list(SITES.values()), orders, names=names, frozen=frozen)
        self.space = space
        return ladder(space, self.IMPORTANCE)

    @pytest.mark.parametrize("names", [("topk",), ("topk_hard", "ffn_topk")], ids=str)
    def test_nothing_that_removes_units(self, names: tuple[str, ...]) -> None:
        assert self.rungs(*names) == [self.space.exact()]

    @pytest.mark.parametrize(
        "names", [("layer",), ("attention_block", "ffn_block"), ("layer", "topk")], ids=str
    )
    def test_blocks_and_layers_go_one_after_the_other(self, names: tuple[str, ...]) -> None:
        genomes = self.rungs(*names)
        assert genomes[0] == self.space.exact()
        assert len(genomes) > 2
        sizes = [parameter_count(sliced_state(BASE, self.space.recipe(g))) for g in genomes]
        assert all(larger > smaller for larger, smaller in itertools.pairwise(sizes))
        for genome in genomes:
            assert not any(level for name, level in genome.items() if name.endswith("topk"))

    def test_of_parameters_of_the_same_units_the_finest_is_taken(self) -> None:
        both = self.rungs("heads", "ffn", "attention_block", "ffn_block", "layer")
        fine = self.rungs("heads", "ffn")
        coarse = ("attention_block", "ffn_block", "layer")
        assert not any(v for g in both for n, v in g.items() if n.endswith(coarse))
        kept = [{n: v for n, v in g.items() if not n.endswith(coarse)} for g in both]
        assert kept == fine

    def test_frozen_sites_stay(self) -> None:
        frozen = tuple(site for site in SITES if site.layer == 0)
        genomes = self.rungs("heads", "ffn", frozen=frozen)
        recipes = [self.space.recipe(genome) for genome in genomes]
        assert len(recipes) > 2
        assert not any(recipe.at(0, kind) for recipe in recipes for kind in ("attention", "ffn"))
