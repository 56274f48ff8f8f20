"""Every approximation there is keeps what approximations promise; a new folder is tested, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from axsearch import approximations as package
from axsearch.approximations import Approximation, approximations, recorded
from axsearch.approximations.choices import Setting
from axsearch.models.architectures import architectures
from axsearch.space.recipe import Recipe
from axsearch.study.settings import SearchSettings
from axsearch.testing.approximations import ApproximationContract, dimensions, logits, recipes

# Post-norm with projections of its own, and pre-norm with fused and gated ones without bias.
FAMILIES = ("bert", "modernbert")


def families_of(approximation: Approximation) -> list[str]:
    """Those of the two that have its kinds of site, or else the first that has."""
    having = [
        model_type
        for model_type, family in architectures().items()
        if {*family.layout.blocks, *family.layout.outside} >= {*approximation.kinds}
    ]
    return [one for one in FAMILIES if one in having] or having[:1]


EVERY = [
    pytest.param(model_type, approximation, id=f"{model_type}-{name}")
    for name, approximation in approximations().items()
    for model_type in families_of(approximation)
]


@pytest.mark.parametrize(("model_type", "approximation"), EVERY)
class TestEveryApproximation(ApproximationContract):
    """Those of axsearch."""


def test_every_folder_is_a_package() -> None:
    """One without ``__init__.py`` would not be found, and nothing would say so."""
    for folder in Path(package.__path__[0]).iterdir():
        if folder.is_dir() and any(folder.glob("*.py")):
            assert (folder / "__init__.py").is_file(), folder.name


def test_the_help_of_search_names_all() -> None:
    hint = get_type_hints(SearchSettings, include_extras=True)["approximations"]
    (option,) = hint.__metadata__
    assert set(re.findall(r"[a-z_]+", option.help)) >= set(approximations())


def test_all_are_found_by_being_there() -> None:
    assert list(approximations()) == sorted(approximations())
    assert set(approximations()) >= {
        "attention_block", "ffn", "ffn_block", "ffn_mask", "ffn_topk", "head_mask", "heads",
        "layer", "topk", "topk_hard",
    }  # fmt: skip
    searched = {name for name, a in approximations().items() if a.searched}
    assert searched >= {"heads", "ffn", "topk"}
    others = {"attention_block", "ffn_block", "ffn_mask", "ffn_topk", "head_mask", "layer"}
    assert not searched & {*others, "topk_hard"}


def test_a_recipe_has_one_name_for_what_gives_the_same_model() -> None:
    assert set(recorded("attention")) >= {"heads", "topk"}
    assert set(recorded("ffn")) >= {"ffn", "ffn_topk"}
    assert not set(recorded("attention")) & {"attention_block", "head_mask", "layer", "topk_hard"}
    assert not set(recorded("ffn")) & {"ffn_block", "ffn_mask", "layer"}


def most(name: str) -> Recipe:
    return recipes(dimensions("bert", approximations()[name])[0])[-1]


def test_blocks_and_layers_are_the_last_level_of_their_units() -> None:
    assert most("attention_block") == most("heads")
    assert most("ffn_block") == most("ffn")
    both = Recipe.of(
        {
            site: dict(choices)
            for recipe in (most("heads"), most("ffn"))
            for site, choices in recipe.sites
        }
    )
    assert most("layer") == both
    assert most("layer").hash == both.hash


def test_the_two_topk_attentions_are_two_modes_of_one_choice() -> None:
    soft, hard = most("topk"), most("topk_hard")
    ((site, ((name, setting),)),) = hard.sites
    assert setting == Setting(value=8, mode="hard")
    assert soft == Recipe.of({site: {name: Setting(value=8, mode="renormalised")}})
    assert not torch.allclose(logits("bert", soft), logits("bert", hard), atol=1e-6)
