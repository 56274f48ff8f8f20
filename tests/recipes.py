"""Random recipes, and a second opinion on what a recipe's JSON says."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.space.recipe import Recipe

MOST_UNITS = 1_048_576


@st.composite
def kept(draw: st.DrawFn) -> Kept:
    of = draw(st.integers(1, 100))
    everything = (1 << of) - 1
    mask = draw(st.integers(0, everything) | st.sampled_from([0, 1, everything]))
    return Kept(of=of, kept=tuple(i for i in range(of) if mask >> i & 1))


SETTING = st.builds(
    Setting, value=st.integers(1, 512), mode=st.sampled_from(["renormalised", "hard"])
)
TYPES = {"heads": kept(), "ffn": kept(), "topk": SETTING, "ffn_topk": SETTING}
CHOICES = st.fixed_dictionaries({}, optional=TYPES)
SITES = st.dictionaries(
    st.builds(
        SiteId,
        st.integers(0, 120),
        st.sampled_from(["attention", "ffn"]),
        st.sampled_from(["", "decoder"]),
    ),
    CHOICES,
    max_size=4,
)
COMPENSATION = st.sampled_from(["none", "bias", "least_squares", "sequential"])
RECIPES = st.builds(Recipe.of, SITES, COMPENSATION)

NAMES = st.sampled_from(["ff", "0", "heads", "layer00.ffn", "kept", "renormalised", "bias", "none"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | NAMES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def meaning(data: Any) -> dict[str, Any] | None:
    """What a document says where it differs from the base; None if it is no recipe.

    Written from the format alone: a second opinion on ``Recipe.from_dict``.
    """

    def integer(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def choice(name: str, value: Any) -> Any:
        if isinstance(value, dict) and value.get("version") == 1 and integer(value["version"]):
            value = {key: value[key] for key in value if key != "version"}
        units_of, setting_of = name in ("heads", "ffn"), name in ("topk", "ffn_topk")
        if units_of and isinstance(value, dict) and set(value) == {"of", "kept"}:
            of, units = value["of"], value["kept"]
            if not integer(of) or not 1 <= of <= MOST_UNITS:
                return None
            if isinstance(units, str):
                if not re.fullmatch("[0-9a-f]{1,65536}", units):
                    return None
                bits = f"{int(units, 16):b}"[::-1]
                units = [i for i, bit in enumerate(bits) if bit == "1"]
            if not isinstance(units, list) or not all(map(integer, units)):
                return None
            if units != sorted(set(units)) or any(not 0 <= unit < of for unit in units):
                return None
            return ("kept", of, units)
        if setting_of and isinstance(value, dict) and set(value) == {"value", "mode"}:
            right = integer(value["value"]) and value["value"] > 0
            mode = value["mode"]
            if right and isinstance(mode, str) and re.fullmatch("[a-z_]{1,32}", mode):
                return ("setting", value["value"], mode)
        return None

    if not isinstance(data, dict) or not {"version", "sites"} <= set(data):
        return None
    if not set(data) <= {"version", "sites", "compensation"}:
        return None
    if data["version"] != 1 or not integer(data["version"]):
        return None
    if not isinstance(data["sites"], dict):
        return None
    found: dict[str, Any] = {}
    for site, choices in data["sites"].items():
        match = re.fullmatch(
            r"(?:[a-z][a-z_]*\.)?(?:layer(?:[0-9]{2}|[1-9][0-9]{2})\.)?[a-z][a-z_]*", site
        )
        if match is None or not isinstance(choices, dict):
            return None
        read = {name: choice(name, value) for name, value in choices.items()}
        if None in read.values():
            return None
        read = {n: c for n, c in read.items() if c[0] == "setting" or len(c[2]) < c[1]}
        counts = [len(c[2]) for c in read.values() if c[0] == "kept"]
        if counts:  # to use k of fewer than k neurons is to use them all
            read = {n: c for n, c in read.items() if n != "ffn_topk" or c[1] < min(counts)}
        read = {n: c for n, c in read.items() if c[0] == "kept" and not c[2]} or read
        if read:
            found[site] = read
    way = data.get("compensation", "none")
    if way not in ("none", "bias", "least_squares", "sequential"):
        return None
    partly = any(c[0] == "kept" and c[2] for read in found.values() for c in read.values())
    of_use = bool(found) if way == "sequential" else partly
    return {"sites": found, "compensation": way if of_use else "none"}


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe in the words of ``meaning``."""
    sites: dict[str, dict[str, Any]] = {}
    for site, name, choice in recipe.choices():
        sites.setdefault(str(site), {})[name] = (
            ("kept", choice.of, list(choice.kept))
            if isinstance(choice, Kept)
            else ("setting", choice.value, choice.mode)
        )
    return {"sites": sites, "compensation": recipe.compensation}
