"""SearchSpace: from sites to a genome, and from a genome to a recipe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from axsearch.approximations import Site, Units, approximations
from axsearch.recipe import Kept, Recipe, Setting, SiteId, SiteKind
from axsearch.space import SearchSpace

LAYERS, HEADS, NEURONS = 2, 4, 16


def sites(length: int = 40) -> list[Site]:
    kinds: tuple[tuple[SiteKind, int], ...] = (("attention", HEADS), ("ffn", NEURONS))
    return [
        Site(SiteId(layer, kind), Units(count=count, width=1, axes=(), whole=()), 10, length)
        for layer in range(LAYERS)
        for kind, count in kinds
    ]


def orders() -> dict[SiteId, list[int]]:
    """The last unit is the least important, and so on down."""
    return {site.id: list(reversed(range(site.units.count))) for site in sites()}


SPACE = SearchSpace(sites(), orders())
GENOMES = st.fixed_dictionaries(
    {name: st.integers(d.low, d.high) for name, d in SPACE.distributions().items()}
)


def test_a_parameter_for_each_layer_and_approximation() -> None:
    names = {f"layer{n:02d}.{name}" for n in range(LAYERS) for name in ("heads", "ffn", "topk")}
    assert set(SPACE.distributions()) == names
    assert SPACE.distributions()["layer01.topk"] == IntDistribution(0, 3)
    assert SPACE.to_dict()["layer01.topk"] == [None, 32, 16, 8]
    assert SPACE.to_dict()["layer00.heads"] == [4, 3, 2, 1, 0]


def test_exact_genome_is_the_base() -> None:
    assert set(SPACE.exact().values()) == {0}
    assert SPACE.recipe(SPACE.exact()) == Recipe.of({})


def test_a_choice_without_another_level_is_no_parameter() -> None:
    short = SearchSpace(sites(length=8), orders())
    assert not any(name.endswith(".topk") for name in short.distributions())


def test_the_importance_order_says_which_units_stay() -> None:
    genome = SPACE.exact() | {"layer01.heads": 2}
    assert SPACE.recipe(genome) == Recipe.of(
        {SiteId(1, "attention"): {"heads": Kept(of=HEADS, kept=(0, 1))}}
    )


def test_choices_at_one_site_are_joined() -> None:
    genome = SPACE.exact() | {"layer00.heads": 3, "layer00.topk": 1}
    assert SPACE.recipe(genome).at(0, "attention") == {
        "heads": Kept(of=HEADS, kept=(0,)),
        "topk": Setting(value=32, mode="renormalised"),
    }


def test_topk_of_a_removed_block_makes_no_other_recipe() -> None:
    removed = SPACE.exact() | {"layer00.heads": 4}
    assert SPACE.recipe(removed | {"layer00.topk": 2}) == SPACE.recipe(removed)


@settings(deadline=None)
@given(GENOMES)
def test_recipe_has_the_levels_of_its_genome(genome: dict[str, int]) -> None:
    recipe = SPACE.recipe(genome)
    for dimension in SPACE.dimensions:
        site, name = dimension.site, dimension.approximation.name
        choice = recipe.at(site.id.layer, site.id.kind).get(name)
        if name == "topk" and recipe.removed(site.id.layer, "attention"):
            assert choice is None
        else:
            level = dimension.levels[genome[dimension.name]]
            assert approximations()[name].value(site, choice) == level
            assert dimension.choice(genome[dimension.name]) == choice


@settings(deadline=None)
@given(GENOMES, st.sampled_from(sorted(SPACE.distributions())))
def test_a_further_level_keeps_a_part_of_what_was_kept(genome: dict[str, int], name: str) -> None:
    further = {**genome, name: min(genome[name] + 1, SPACE.distributions()[name].high)}
    for site in sites():
        before = SPACE.recipe(genome).at(*site.id)
        after = SPACE.recipe(further).at(*site.id)
        for unit_choice in ("heads", "ffn"):
            kept = before.get(unit_choice)
            left = after.get(unit_choice)
            if isinstance(kept, Kept):
                assert isinstance(left, Kept)
                assert set(left.kept) <= set(kept.kept)


def test_incomplete_genome_is_refused() -> None:
    with pytest.raises(KeyError, match=r"layer01\.topk"):
        SPACE.recipe({name: 0 for name in SPACE.exact() if name != "layer01.topk"})


def test_fingerprint_recognises_levels_and_orders() -> None:
    assert SearchSpace(sites(), orders()).fingerprint == SPACE.fingerprint
    other_order = orders() | {SiteId(1, "ffn"): list(range(NEURONS))}
    others = [
        SearchSpace(sites(), other_order),
        SearchSpace(sites(length=100), orders()),
        SearchSpace(sites()[:2], orders()),
    ]
    assert len({SPACE.fingerprint, *(space.fingerprint for space in others)}) == 4
