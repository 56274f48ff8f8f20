"""Recipes that earlier releases wrote: they read, mean the same and keep their hash."""

from __future__ import annotations

import json
from pathlib import Path

from axsearch import Recipe


def test_every_recipe_is_read_and_keeps_its_hash(release: Path, tmp_path: Path) -> None:
    entries = json.loads((release / "recipes.json").read_text())
    for entry in entries:
        recipe = Recipe.from_dict(entry.get("given", entry["recipe"]), entry["about"])
        assert recipe.hash == entry["hash"], entry["about"]
        assert recipe.to_dict() == entry["recipe"], entry["about"]
        assert Recipe.from_json(recipe.to_json()) == recipe, entry["about"]
        assert Recipe.from_stored(json.dumps(entry["recipe"]), entry["hash"]) == recipe
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps({**entry["recipe"], "sha256": entry["hash"]}))
        assert Recipe.read(path) == recipe, entry["about"]
        recipe.write(path)
        assert Recipe.read(path) == recipe, entry["about"]


def test_they_differ_in_all_that_a_recipe_can_say(release: Path) -> None:
    entries = json.loads((release / "recipes.json").read_text())
    choices = [
        (name, choice)
        for entry in entries
        for site in entry["recipe"]["sites"].values()
        for name, choice in site.items()
    ]
    assert len({entry["hash"] for entry in entries}) > 100
    assert {name for name, _ in choices} == {"heads", "ffn", "topk", "ffn_topk"}
    modes = {choice["mode"] for _, choice in choices if "mode" in choice}
    assert modes == {"renormalised", "hard", "largest"}
    ways = {entry["recipe"].get("compensation") for entry in entries}
    assert ways == {None, "bias", "least_squares"}
    forms = {type(choice["kept"]) for _, choice in choices if "kept" in choice}
    assert forms == {list, str}
