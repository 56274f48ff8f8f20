"""SearchSpace: from sites to a genome, and from a genome to a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from axsearch.approximations import approximations
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SELECTABLE_SCORES, Site, SiteId, SiteKind
from axsearch.errors import UsageError
from axsearch.space.genome import SearchSpace, approximations_of, frozen_sites
from axsearch.space.recipe import Recipe
from axsearch.testing.problems import sites_of

LAYERS, HEADS, NEURONS = 2, 4, 16


def sites(length: int = 40, lacks: dict[str, str] | None = None) -> list[Site]:
    return sites_of(LAYERS, {"attention": HEADS, "ffn": NEURONS}, length, lacks)


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


def test_what_all_layers_share_is_one_parameter() -> None:
    space = SearchSpace(sites(), orders(), names=["layer", "ffn_width"])
    assert list(space.distributions()) == ["layer00.layer", "layer01.layer", "layers.ffn_width"]
    assert 0 not in space.to_dict()["layers.ffn_width"]
    found = space.recipe({"layer00.layer": 0, "layer01.layer": 1, "layers.ffn_width": 2})
    (kept,) = found.at(0, "ffn").values()
    assert isinstance(kept, Kept)
    assert len(kept.kept) == space.to_dict()["layers.ffn_width"][2]
    assert found.removed(1, "ffn")
    assert approximations_of(space.distributions()) == ("layer", "ffn_width")


def test_layers_that_differ_share_no_width() -> None:
    first, *others = sites()
    ffn = next(one for one in others if one.id == SiteId(0, "ffn"))
    assert ffn.units is not None
    smaller = replace(ffn, units=replace(ffn.units, count=NEURONS // 2))
    uneven = [first, *(smaller if one is ffn else one for one in others)]
    with pytest.raises(UsageError, match="'ffn_width' sets all layers, which differ"):
        SearchSpace(uneven, orders(), names=["layer", "ffn_width"])
    with pytest.raises(UsageError, match="so that none of them can be frozen"):
        SearchSpace(sites(), orders(), names=["ffn_width"], frozen=[SiteId(0, "ffn")])
    with pytest.raises(UsageError, match="'ffn' and 'ffn_width' set the same units; take one"):
        SearchSpace(sites(), orders(), names=["ffn", "ffn_width"])


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
        (site,), name = dimension.sites, dimension.approximation.name
        choice = recipe.at(*site.id).get(name)
        if name == "topk" and recipe.removed(site.id.layer, "attention"):
            assert choice is None
        else:
            level = dimension.levels[genome[dimension.name]]
            assert approximations()[name].value(site, choice) == level
            written = {} if choice is None else {site.id: (name, choice)}
            assert dimension.choices(genome[dimension.name]) == written


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
        SearchSpace(sites(), orders(), names=["heads", "ffn"]),
        SearchSpace(sites(), orders(), names=["heads", "ffn", "topk_hard"]),
        SearchSpace(sites(), orders(), frozen=[SiteId(0, "ffn")]),
        SearchSpace(sites(), orders(), compensation="bias"),
    ]
    assert len({SPACE.fingerprint, *(space.fingerprint for space in others)}) == 8


def space(*names: str, **more: Any) -> SearchSpace:
    return SearchSpace(sites(), orders(), names=names or None, **more)


class TestAllowList:
    def test_only_what_is_named_is_searched(self) -> None:
        assert set(space("ffn").distributions()) == {"layer00.ffn", "layer01.ffn"}
        found = space("layer", "ffn_topk").to_dict()
        assert found == {
            "layer00.ffn_topk": [None, 8, 4, 2, 1],
            "layer00.layer": [HEADS, 0],
            "layer01.ffn_topk": [None, 8, 4, 2, 1],
            "layer01.layer": [HEADS, 0],
        }

    def test_order_and_repetition_of_names_do_not_matter(self) -> None:
        again = space("topk", "ffn", "heads", "ffn")
        assert again.fingerprint == SPACE.fingerprint

    def test_an_unknown_name_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(UsageError, match=r"'rank' is not known; choose from .*ffn.*heads"):
            space("rank")

    @pytest.mark.parametrize("name", ["topk", "topk_hard"])
    def test_what_the_family_lacks_is_refused_by_name(self, name: str) -> None:
        lacking = sites(lacks={SELECTABLE_SCORES: "its scores are its own"})
        with pytest.raises(UsageError, match=f"'{name}' is not supported .*its scores are its own"):
            SearchSpace(lacking, orders(), names=[name])

    def test_what_the_family_lacks_is_left_out_by_default(self) -> None:
        lacking = SearchSpace(sites(lacks={SELECTABLE_SCORES: "no"}), orders())
        assert set(lacking.distributions()) == {
            name for name in SPACE.distributions() if not name.endswith(".topk")
        }


class TestFrozen:
    def test_a_frozen_site_has_no_parameter(self) -> None:
        frozen = space(frozen=[SiteId(0, "attention")])
        assert set(frozen.distributions()) == {
            name for name in SPACE.distributions() if name not in ("layer00.heads", "layer00.topk")
        }
        recipe = frozen.recipe({n: d.high for n, d in frozen.distributions().items()})
        assert recipe.at(0, "attention") == {}
        assert recipe.removed(0, "ffn")

    @pytest.mark.parametrize("kind", ["attention", "ffn"])
    def test_a_layer_with_a_frozen_block_cannot_go_as_a_whole(self, kind: SiteKind) -> None:
        assert set(space("layer", frozen=[SiteId(0, kind)]).distributions()) == {"layer01.layer"}

    def test_a_site_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"layer07\.ffn cannot be frozen"):
            space(frozen=[SiteId(7, "ffn")])

    def test_nothing_left_to_search_is_refused(self) -> None:
        with pytest.raises(UsageError, match="Nothing is left to search"):
            space(frozen=[site.id for site in sites()])
        with pytest.raises(UsageError, match="Nothing is left to search"):
            SearchSpace(sites(length=8), orders(), names=["topk"])
        with pytest.raises(UsageError, match="Nothing is left to search"):
            SearchSpace(sites(), orders(), names=[])

    def test_names_of_layers_and_blocks(self) -> None:
        assert frozen_sites([], sites()) == frozenset()
        assert frozen_sites(["layer01"], sites()) == {SiteId(1, "attention"), SiteId(1, "ffn")}
        assert frozen_sites(["layer00.ffn", "layer01.attention"], sites()) == {
            SiteId(0, "ffn"),
            SiteId(1, "attention"),
        }

    @pytest.mark.parametrize(
        "name",
        ["", "layer", "layer0", "layer02", "layer00.heads", "ffn", "0", "layer00.", "LAYER00"],
    )
    def test_another_name_is_refused_with_how_they_are_written(self, name: str) -> None:
        with pytest.raises(UsageError, match=r"layer00\.ffn, up to layer01\.ffn\.$") as refused:
            frozen_sites(["layer00", name], sites())
        assert repr(name) in str(refused.value)


class TestParametersOfTheSameUnits:
    SPACE = space("heads", "ffn", "attention_block", "ffn_block", "layer", "ffn_topk")

    def recipe(self, **levels: int) -> Recipe:
        return self.SPACE.recipe(
            self.SPACE.exact() | {f"layer00.{name}": level for name, level in levels.items()}
        )

    def test_the_stronger_removal_holds(self) -> None:
        whole = self.recipe(layer=1)
        assert whole.removed(0, "attention")
        assert whole.removed(0, "ffn")
        assert self.recipe(layer=1, heads=2, ffn=3, ffn_topk=1) == whole
        assert self.recipe(attention_block=1, ffn_block=1) == whole
        assert self.recipe(heads=4, ffn=self.SPACE.distributions()["layer00.ffn"].high) == whole

    def test_a_block_leaves_the_other_one_as_it_is(self) -> None:
        assert self.recipe(attention_block=1, heads=1, ffn=2) == Recipe.of(
            {
                SiteId(0, "attention"): {"heads": Kept(of=HEADS, kept=())},
                SiteId(0, "ffn"): {"ffn": Kept(of=NEURONS, kept=tuple(range(12)))},
            }
        )

    def test_the_smaller_k_of_two_holds(self) -> None:
        both = space("topk", "topk_hard")
        genome = both.exact() | {"layer00.topk": 1, "layer00.topk_hard": 3}
        setting = Setting(value=8, mode="hard")
        assert both.recipe(genome) == Recipe.of({SiteId(0, "attention"): {"topk": setting}})

    def test_a_k_that_the_neurons_left_cannot_reach_is_no_choice(self) -> None:
        # Level 1 of ffn_topk uses 8 neurons; so many are left at the fourth level of ffn.
        levels = self.SPACE.to_dict()["layer00.ffn"]
        eight = levels.index(8)
        assert self.recipe(ffn=eight, ffn_topk=1) == self.recipe(ffn=eight)
        assert self.recipe(ffn=eight, ffn_topk=2) != self.recipe(ffn=eight)


class TestParts:
    SPACE = space("head_mask", "ffn_mask", "heads", "attention_block")

    def recipe(self, **levels: int) -> Recipe:
        named = {f"layer00.{name.replace('__', '.')}": level for name, level in levels.items()}
        return self.SPACE.recipe(self.SPACE.exact() | named)

    def test_each_part_is_a_parameter(self) -> None:
        masks = space("head_mask", "ffn_mask")
        assert [d.name for d in masks.dimensions] == [
            f"layer{layer:02d}.{name}.{part:02d}"
            for layer in range(LAYERS)
            for name, parts in (("ffn_mask", 12), ("head_mask", HEADS))
            for part in range(parts)
        ]
        assert set(masks.distributions().values()) == {IntDistribution(0, 1)}
        assert masks.to_dict()["layer01.head_mask.03"] == [4, 3]
        assert masks.to_dict()["layer01.ffn_mask.02"] == [16, 14]

    def test_the_only_part_needs_no_number(self) -> None:
        one = [replace(s, units=replace(s.units, count=1)) for s in sites()]
        found = SearchSpace(one, {s.id: [0] for s in one}, names=["head_mask"])
        assert set(found.distributions()) == {"layer00.head_mask", "layer01.head_mask"}

    def test_what_every_part_keeps_stays(self) -> None:
        assert self.recipe(head_mask__00=1, head_mask__02=1) == Recipe.of(
            {SiteId(0, "attention"): {"heads": Kept(of=HEADS, kept=(1, 3))}}
        )

    def test_all_parts_are_the_block(self) -> None:
        gone = self.recipe(**{f"head_mask__{part:02d}": 1 for part in range(HEADS)})
        assert gone == self.recipe(attention_block=1)
        assert self.recipe(**{f"ffn_mask__{part:02d}": 1 for part in range(12)}) == Recipe.of(
            {SiteId(0, "ffn"): {"ffn": Kept(of=NEURONS, kept=())}}
        )

    def test_units_that_a_count_keeps_go_with_their_part(self) -> None:
        # The order removes the last heads first: heads 0, 1 and 2 are left.
        assert self.recipe(heads=1, head_mask__01=1) == Recipe.of(
            {SiteId(0, "attention"): {"heads": Kept(of=HEADS, kept=(0, 2))}}
        )
        assert self.recipe(heads=1, head_mask__03=1) == self.recipe(heads=1)

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 1), min_size=12, max_size=12))
    def test_a_mask_keeps_the_neurons_of_its_groups(self, mask: list[int]) -> None:
        recipe = self.recipe(**{f"ffn_mask__{part:02d}": gone for part, gone in enumerate(mask)})
        kept = tuple(
            neuron
            for part, gone in enumerate(mask)
            for neuron in range(16 * part // 12, 16 * (part + 1) // 12)
            if not gone
        )
        choice = recipe.at(0, "ffn").get("ffn", Kept(of=NEURONS, kept=tuple(range(NEURONS))))
        assert choice == Kept(of=NEURONS, kept=kept)


class TestDropped:
    def test_a_dropped_level_is_no_level(self) -> None:
        left = space(dropped={"layer01.heads": [3, 1], "layer00.topk": (16,)})
        assert left.to_dict()["layer01.heads"] == [4, 2, 0]
        assert left.to_dict()["layer00.topk"] == [None, 32, 8]
        assert left.to_dict()["layer00.heads"] == SPACE.to_dict()["layer00.heads"]
        assert left.distributions()["layer01.heads"] == IntDistribution(0, 2)
        assert left.fingerprint != SPACE.fingerprint
        for ours, theirs in ((1, 2), (2, 4)):
            assert left.recipe(left.exact() | {"layer01.heads": ours}) == SPACE.recipe(
                SPACE.exact() | {"layer01.heads": theirs}
            )

    def test_a_parameter_with_the_exact_level_only_is_left_out(self) -> None:
        left = space(dropped={"layer00.topk": [32, 16, 8]})
        assert set(left.distributions()) == set(SPACE.distributions()) - {"layer00.topk"}
        masks = space("head_mask", dropped={"layer01.head_mask.02": [3]})
        assert len(masks.dimensions) == 2 * HEADS - 1
        gone = masks.recipe(dict.fromkeys(masks.exact(), 1))
        assert gone.at(1, "attention") == {"heads": Kept(of=HEADS, kept=(2,))}

    def test_both_blocks_of_a_layer_lose_the_level(self) -> None:
        with pytest.raises(UsageError, match="Nothing is left to search"):
            space("layer", dropped={"layer00.layer": [0], "layer01.layer": [0]})

    def test_nothing_dropped_is_the_same_space(self) -> None:
        assert space(dropped={"layer00.topk": []}).fingerprint == SPACE.fingerprint

    @pytest.mark.parametrize(
        ("name", "level"),
        [("layer00.heads", 4), ("layer00.topk", None), ("layer00.heads", 7), ("layer09.ffn", 0)],
    )
    def test_the_exact_level_and_one_that_is_not_there_are_refused(
        self, name: str, level: int | None
    ) -> None:
        with pytest.raises(ValueError, match=f"{name} has no level {level} that can be dropped"):
            space(dropped={name: [level]})


def test_compensation_is_that_of_every_recipe_it_can_be_of() -> None:
    compensated = space(compensation="least_squares")
    some = compensated.recipe(compensated.exact() | {"layer00.heads": 1})
    assert some.compensation == "least_squares"
    assert compensated.recipe(compensated.exact()) == Recipe.of({})
    none = compensated.recipe(compensated.exact() | {"layer00.heads": 4})
    assert none.compensation == "none"


def test_both_blocks_of_a_layer_are_set_together() -> None:
    whole = space("layer")
    attention, ffn = whole.dimensions[0].sites
    assert whole.dimensions[0].name == "layer00.layer"
    assert (attention.id, ffn.id) == (SiteId(0, "attention"), SiteId(0, "ffn"))
    assert whole.recipe(whole.exact() | {"layer00.layer": 1}) == Recipe.of(
        {
            attention.id: {"heads": Kept(of=HEADS, kept=())},
            ffn.id: {"ffn": Kept(of=NEURONS, kept=())},
        }
    )
