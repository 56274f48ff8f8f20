"""Recipe: canonical, hashable, JSON in and out; nothing else is taken for one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.space.recipe import Compensation, Recipe
from tests.mutations import changed
from tests.recipes import JSON, RECIPES, SITES, described, meaning

ATTENTION, FFN = SiteId(0, "attention"), SiteId(0, "ffn")
EXACT = Recipe.of({})
SETTINGS = settings(deadline=None, max_examples=100)


def assert_read_rightly(data: Any) -> None:
    """Either refused with UsageError or read as what the document says; never anything else."""
    expected = meaning(data)
    try:
        read = described(Recipe.from_json(json.dumps(data)))
    except UsageError:
        read = None
    assert read == expected


KEYS = st.text(max_size=10) | st.sampled_from(["of", "kept", "layer99.ffn", "compensation"])
MUTATED = changed(RECIPES.filter(lambda recipe: bool(recipe.sites)).map(Recipe.to_dict), JSON, KEYS)


class TestCanonicalForm:
    def test_keeping_everything_is_exact(self) -> None:
        everything = Recipe.of({ATTENTION: {"heads": Kept(of=3, kept=(0, 1, 2))}, FFN: {}})
        assert everything == EXACT
        assert everything.hash == EXACT.hash
        assert everything.to_dict() == {"version": 1, "sites": {}}

    def test_a_removed_block_drops_other_choices_at_its_site_only(self) -> None:
        none: dict[str, Choice] = {"heads": Kept(of=3, kept=())}
        topk = Setting(value=8, mode="renormalised")
        both = Recipe.of({ATTENTION: {**none, "topk": topk}, FFN: {"rank": topk}})
        assert both == Recipe.of({ATTENTION: none, FFN: {"rank": topk}})
        assert both.at(0, "attention") == none

    def test_a_setting_beside_kept_units_stays(self) -> None:
        choices: dict[str, Choice] = {
            "heads": Kept(of=3, kept=(1,)),
            "topk": Setting(value=8, mode="hard"),
        }
        assert Recipe.of({ATTENTION: choices}).at(0, "attention") == choices

    @pytest.mark.parametrize(("k", "stays"), [(1, True), (2, True), (3, False), (64, False)])
    def test_using_k_of_no_more_than_k_neurons_is_no_choice(self, k: int, stays: bool) -> None:
        some: dict[str, Choice] = {"ffn": Kept(of=64, kept=(0, 5, 9))}
        both: dict[str, Choice] = {**some, "ffn_topk": Setting(value=k, mode="largest")}
        assert Recipe.of({FFN: both}) == Recipe.of({FFN: both if stays else some})
        assert ("ffn_topk" in Recipe.of({FFN: both}).at(0, "ffn")) is stays

    def test_a_k_of_attention_is_not_compared_with_heads(self) -> None:
        choices: dict[str, Choice] = {
            "heads": Kept(of=12, kept=(0, 5)),
            "topk": Setting(value=64, mode="hard"),
        }
        assert Recipe.of({ATTENTION: choices}).at(0, "attention") == choices

    @SETTINGS
    @given(SITES, st.randoms())
    def test_order_does_not_matter(self, sites: dict[SiteId, dict[str, Choice]], draw: Any) -> None:
        shuffled = [(site, list(choices.items())) for site, choices in sites.items()]
        draw.shuffle(shuffled)
        for _, choices in shuffled:
            draw.shuffle(choices)
        other = Recipe.of({site: dict(choices) for site, choices in shuffled})
        assert other == Recipe.of(sites)
        assert hash(other) == hash(Recipe.of(sites))
        assert other.to_json() == Recipe.of(sites).to_json()

    @SETTINGS
    @given(RECIPES, RECIPES)
    def test_equal_exactly_where_hashes_are(self, a: Recipe, b: Recipe) -> None:
        assert (a == b) == (a.hash == b.hash) == (described(a) == described(b))

    @SETTINGS
    @given(SITES)
    def test_no_effect_is_left_in(self, sites: dict[SiteId, dict[str, Choice]]) -> None:
        for _, choices in Recipe.of(sites).sites:
            assert choices
            kept = [choice for _, choice in choices if isinstance(choice, Kept)]
            assert not any(choice.exact for choice in kept)
            assert all(choice.kept for choice in kept) or len(kept) == len(choices)

    def test_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            EXACT.version = 1

    def test_removed(self) -> None:
        recipe = Recipe.of({ATTENTION: {"heads": Kept(of=3, kept=())}})
        assert recipe.removed(0, "attention")
        assert not recipe.removed(0, "ffn")
        assert not recipe.removed(1, "attention")
        assert recipe.at(5, "ffn") == {}


class TestCompensation:
    SOME: ClassVar[dict[SiteId, dict[str, Choice]]] = {FFN: {"ffn": Kept(of=4, kept=(1,))}}

    @pytest.mark.parametrize("way", ["bias", "least_squares", "sequential"])
    def test_is_kept_where_units_are_partly_removed(self, way: Compensation) -> None:
        recipe = Recipe.of(self.SOME, way)
        assert recipe.compensation == way
        assert recipe != Recipe.of(self.SOME)
        assert recipe.hash != Recipe.of(self.SOME).hash
        assert recipe.to_dict() == {**Recipe.of(self.SOME).to_dict(), "compensation": way}
        assert Recipe.from_json(recipe.to_json()) == recipe

    @pytest.mark.parametrize(
        "sites",
        [
            {},
            {ATTENTION: {"heads": Kept(of=4, kept=(0, 1, 2, 3))}},
            {ATTENTION: {"heads": Kept(of=4, kept=())}, FFN: {"ffn": Kept(of=4, kept=())}},
            {ATTENTION: {"topk": Setting(value=8, mode="hard")}},
            {FFN: {"ffn_topk": Setting(value=8, mode="largest")}},
            {ATTENTION: {"heads": Kept(of=4, kept=()), "topk": Setting(value=8, mode="hard")}},
        ],
        ids=["exact", "all kept", "blocks", "top-k", "top-k FFN", "block and top-k"],
    )
    def test_is_dropped_where_no_unit_could_make_up_for_another(
        self, sites: dict[SiteId, dict[str, Choice]]
    ) -> None:
        recipe = Recipe.of(sites, "least_squares")
        assert recipe.compensation == "none"
        assert recipe == Recipe.of(sites)
        assert "compensation" not in recipe.to_json()

    def test_other_blocks_make_up_sequentially_where_anything_changes(self) -> None:
        gone = Recipe.of({FFN: {"ffn": Kept(of=4, kept=())}}, "sequential")
        assert gone.compensation == "sequential"
        assert Recipe.from_json(gone.to_json()) == gone
        assert Recipe.of({}, "sequential") == Recipe.of({})

    def test_none_is_not_written_so_that_stored_recipes_stay_known(self) -> None:
        assert set(Recipe.of(self.SOME).to_dict()) == {"version", "sites"}
        data = {**Recipe.of(self.SOME).to_dict(), "compensation": "none"}
        assert Recipe.from_dict(data) == Recipe.of(self.SOME)

    @pytest.mark.parametrize("way", ["", "Bias", "ridge", None, 1, True, ["bias"], {"bias": 1}])
    def test_another_is_refused(self, way: object) -> None:
        data = {**Recipe.of(self.SOME).to_dict(), "compensation": way}
        with pytest.raises(UsageError) as refused:
            Recipe.from_dict(data, "mine")
        assert str(refused.value) == (
            f"mine is not a valid recipe: compensation {way!r} is not one of "
            "none, bias, least_squares, sequential."
        )
        assert meaning(data) is None

    def test_file_round_trip_and_an_edited_file(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.json"
        Recipe.of(self.SOME, "bias").write(path)
        assert Recipe.read(path) == Recipe.of(self.SOME, "bias")
        path.write_text(path.read_text().replace('"bias"', '"least_squares"'))
        with pytest.raises(UsageError, match="was changed after"):
            Recipe.read(path)


class TestJson:
    @SETTINGS
    @given(RECIPES)
    def test_round_trip(self, recipe: Recipe) -> None:
        again = Recipe.from_json(recipe.to_json())
        assert again == recipe
        assert again.hash == recipe.hash
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
        assert Recipe.from_stored(recipe.to_json(), recipe.hash) == recipe

    def test_hash_is_stable(self) -> None:
        # Studies are resumed by it: another value here makes every stored result unknown.
        recipe = Recipe.of(
            {
                SiteId(11, "attention"): {
                    "topk": Setting(value=16, mode="renormalised"),
                    "heads": Kept(of=12, kept=(0, 3, 7)),
                },
                SiteId(2, "ffn"): {"ffn": Kept(of=100, kept=(0, 5, 99))},
            }
        )
        assert recipe.to_json() == (
            '{"sites":{"layer02.ffn":{"ffn":{"kept":"8000000000000000000000021","of":100}},'
            '"layer11.attention":{"heads":{"kept":[0,3,7],"of":12},'
            '"topk":{"mode":"renormalised","value":16}}},"version":1}'
        )
        assert recipe.hash == "ce054314395cb04c984d5ce31257569ea9cd9453398b26cabcce09b8da3eab20"
        assert EXACT.hash == "bc598a2a238c01aac3025e8b064f08d47a7485a98e14c3e2a6da29e7cbb88e6b"
        compensated = Recipe.of({FFN: {"ffn": Kept(of=4, kept=(1,))}}, "bias")
        assert compensated.to_json() == (
            '{"compensation":"bias","sites":{"layer00.ffn":{"ffn":{"kept":[1],"of":4}}},"version":1}'
        )

    @pytest.mark.parametrize(("of", "mask"), [(4, "b"), (4, "0b"), (100, "b"), (100, "000b")])
    def test_bit_mask(self, of: int, mask: str) -> None:
        data = {"version": 1, "sites": {"layer00.ffn": {"ffn": {"of": of, "kept": mask}}}}
        assert Recipe.from_dict(data).at(0, "ffn") == {"ffn": Kept(of=of, kept=(0, 1, 3))}

    @pytest.mark.parametrize(("of", "written"), [(64, [0, 63]), (65, "8000000000000001")])
    def test_bit_mask_is_written_above_64_units(self, of: int, written: object) -> None:
        recipe = Recipe.of({FFN: {"ffn": Kept(of=of, kept=(0, 63))}})
        assert recipe.to_dict()["sites"] == {"layer00.ffn": {"ffn": {"of": of, "kept": written}}}

    def test_empty_bit_mask_removes_the_block(self) -> None:
        recipe = Recipe.of({FFN: {"ffn": Kept(of=100, kept=())}})
        assert '"kept":"0"' in recipe.to_json()
        assert Recipe.from_json(recipe.to_json()).removed(0, "ffn")

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            "recipe",
            {},
            {"version": 1},
            {"sites": {}},
            {"version": 1, "sites": {}, "more": 1},
            {"version": 1, "sites": {}, "compensation": "mean"},
            {"version": 1, "compensation": "bias"},
            {"version": 2, "sites": {}},
            {"version": "1", "sites": {}},
            {"version": True, "sites": {}},
            {"version": 1, "sites": []},
            {"version": 1, "sites": None},
            {"version": 1, "sites": {"layer0.ffn": {}}},
            {"version": 1, "sites": {"layer000.ffn": {}}},
            {"version": 1, "sites": {"layer00": {}}},
            {"version": 1, "sites": {"layer-1.ffn": {}}},
            {"version": 1, "sites": {"layer00.ffn\n": {}}},
            {"version": 1, "sites": {"layer٣٣.ffn": {}}},
            {"version": 1, "sites": {"layer00.ffn": []}},
            {"version": 1, "sites": {"layer00.ffn": {"ffn": None}}},
            {"version": 1, "sites": {"layer00.ffn": {"ffn": "kept"}}},
            {"version": 1, "sites": {"layer00.ffn": {"ffn": ["kept"]}}},
            {"version": 1, "sites": {"layer00.ffn": {"ffn": {}}}},
            *(
                {"version": 1, "sites": {"layer00.ffn": {"ffn": choice}}}
                for choice in (
                    {"kept": [0]},
                    {"of": 4},
                    {"of": 4, "kept": [0], "more": 1},
                    {"of": 4, "kept": [0], "value": 1, "mode": "hard"},
                    {"of": 0, "kept": []},
                    {"of": -4, "kept": []},
                    {"of": "4", "kept": [0]},
                    {"of": 4.0, "kept": [0]},
                    {"of": True, "kept": [0]},
                    {"of": 4, "kept": [4]},
                    {"of": 4, "kept": [-1]},
                    {"of": 4, "kept": [1, 0]},
                    {"of": 4, "kept": [1, 1]},
                    {"of": 4, "kept": [True]},
                    {"of": 4, "kept": [1.0]},
                    {"of": 4, "kept": None},
                    {"of": 4, "kept": {"0": 1}},
                    {"of": 4, "kept": ""},
                    {"of": 4, "kept": "F"},
                    {"of": 4, "kept": "0x3"},
                    {"of": 4, "kept": "-1"},
                    {"of": 4, "kept": "1_1"},
                    {"of": 4, "kept": "10"},
                    {"of": 4, "kept": " 1"},
                    {"value": 1},
                    {"mode": "hard"},
                    {"value": 0, "mode": "hard"},
                    {"value": None, "mode": "hard"},
                    {"value": 1.5, "mode": "hard"},
                    {"value": 1, "mode": ""},
                    {"value": 1, "mode": "Hard"},
                    {"value": 1, "mode": "hard\n"},
                    {"value": 1, "mode": "a" * 33},
                    {"value": 1, "mode": 1},
                )
            ),
        ],
        ids=lambda data: json.dumps(data)[-60:],
    )  # fmt: skip
    def test_bad_document_is_refused(self, data: Any) -> None:
        for read in (
            lambda: Recipe.from_dict(data, "mine"),
            lambda: Recipe.from_json(json.dumps(data), "mine"),
        ):
            with pytest.raises(UsageError, match=r"^mine is not a valid recipe: .+") as refused:
                read()
            assert "\n" not in str(refused.value)
        assert meaning(data) is None  # or the fuzzing below would be blind to it

    @SETTINGS
    @given(MUTATED)
    def test_mutated_recipe(self, data: Any) -> None:
        assert_read_rightly(data)

    @SETTINGS
    @given(JSON)
    def test_any_json(self, data: Any) -> None:
        assert_read_rightly(data)
        assert_read_rightly({"version": 1, "sites": data})
        assert_read_rightly({"version": 1, "sites": {"layer00.ffn": {"ffn": data}}})
        assert_read_rightly({"version": data, "sites": {}})
        some = {"layer00.ffn": {"ffn": {"of": 4, "kept": [1]}}}
        assert_read_rightly({"version": 1, "sites": some, "compensation": data})

    @SETTINGS
    @given(st.text())
    def test_any_text(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"^the recipe is not (JSON|a valid recipe)"):
            Recipe.from_json(text)

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 100_000,
            '{"version":1,"sites":' + '{"a":' * 100_000,
            '{"version":' + "[" * 900 + "]" * 900 + ',"sites":{}}',
            '{"version":1,"sites":{"layer00.ffn":{"ffn":{"of":' + "9" * 10_000 + ',"kept":[]}}}}',
            '{"version":1,"sites":{"layer00.ffn":{"ffn":{"of":4,"kept":"' + "f" * 100_000 + '"}}}}',
            '{"version":2,"version":1,"sites":{}}',
            '{"version":1,"sites":{"layer00.ffn":{},"layer00.ffn":{}}}',
            "NaN",
            "",
            "\x00",
        ],
        ids=[
            "deep list",
            "deep object",
            "deep version",
            "long number",
            "long mask",
            "version twice",
            "site twice",
            "NaN",
            "empty",
            "NUL",
        ],
    )
    def test_hostile_text(self, text: str) -> None:
        with pytest.raises(UsageError):
            Recipe.from_json(text)

    def test_the_error_says_where(self) -> None:
        for choice, reason in (
            ({"of": 4, "kept": [1, 1]}, "kept indices must be distinct and ascending"),
            ({"of": 10**12, "kept": [10**12 - 1]}, "of: Input should be less than or equal"),
            ([], "is not an object"),
        ):
            data = {"version": 1, "sites": {"layer07.ffn": {"ffn": choice}}}
            with pytest.raises(UsageError, match=f"recipe: layer07.ffn, 'ffn'.* {reason}"):
                Recipe.from_dict(data)

    def test_edited_stored_recipe_is_refused(self) -> None:
        recipe = Recipe.of({FFN: {"ffn": Kept(of=4, kept=(1,))}})
        with pytest.raises(UsageError, match=f"stored recipe {recipe.hash[:12]} was changed"):
            Recipe.from_stored(recipe.to_json().replace("[1]", "[2]"), recipe.hash)


class TestFile:
    RECIPE = Recipe.of(
        {ATTENTION: {"heads": Kept(of=12, kept=(0, 3))}, FFN: {"ffn": Kept(of=100, kept=(7,))}}
    )

    def test_round_trip(self, tmp_path: Path) -> None:
        self.RECIPE.write(tmp_path / "recipe.json")
        assert Recipe.read(tmp_path / "recipe.json") == self.RECIPE

    def test_written_by_hand_without_checksum(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.json"
        path.write_text(self.RECIPE.to_json())
        assert Recipe.read(path) == self.RECIPE

    def test_layout_is_free(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.json"
        self.RECIPE.write(path)
        path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
        assert Recipe.read(path) == self.RECIPE

    @pytest.mark.parametrize(("old", "new"), [("12", "13"), ("3\n", "4\n"), ('"80"', '"81"')])
    def test_edited_file_is_refused(self, tmp_path: Path, old: str, new: str) -> None:
        path = tmp_path / "recipe.json"
        self.RECIPE.write(path)
        edited = path.read_text().replace(old, new, 1)
        assert edited != path.read_text()
        path.write_text(edited)
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))} was changed after"):
            Recipe.read(path)

    @pytest.mark.parametrize("checksum", ["0" * 64, "", 5, [], {}])
    def test_other_checksum_is_refused(self, tmp_path: Path, checksum: object) -> None:
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps({**self.RECIPE.to_dict(), "sha256": checksum}))
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))} was changed after"):
            Recipe.read(path)

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.json", tmp_path):
            with pytest.raises(UsageError, match=f"^{re.escape(str(path))} cannot be read"):
                Recipe.read(path)

    @SETTINGS
    @given(content=st.binary(max_size=200) | JSON.map(lambda data: json.dumps(data).encode()))
    def test_any_content(self, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "any.json"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))} "):
            Recipe.read(path)


class TestSiteId:
    @pytest.mark.parametrize("layer", [0, 9, 10, 99, 100, 999])
    def test_round_trip(self, layer: int) -> None:
        site = SiteId(layer, "ffn")
        assert SiteId.parse(str(site)) == site

    def test_is_written_with_two_digits(self) -> None:
        assert str(SiteId(3, "attention")) == "layer03.attention"

    def test_other_spelling_is_refused_with_the_right_one(self) -> None:
        with pytest.raises(ValueError, match=r"use 'layer03\.ffn'"):
            SiteId.parse("layer003.ffn")
