"""Exports of exports: iterative pruning, of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SELECTABLE_SCORES, SiteId
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.base_model import Base
from axsearch.models.exported import open_export
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import padded_batch, random_model
from tests.export.test_hf_contract import opened_elsewhere

LAYERS = 5
DEEP: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_groups": LAYERS},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},  # a layer's place counts
    "modernbert": {"layer_types": ["full_attention", *["sliding_attention"] * 4]},
}
KEEPS_FIRST = ("albert", "deberta-v2")
"""Families of which a layer that has lost its blocks, the first one here, stays in its place."""

EVEN, FOURTH = tuple(range(0, 64, 2)), tuple(range(0, 32, 4))


class Both(NamedTuple):
    """Two recipes, the second one of the export of the first, and what they do together."""

    first: Recipe
    second: Recipe
    joint: Recipe
    layers: list[int]


def site(layer: int, kind: str) -> SiteId:
    return SiteId(layer, kind)


def both(model_type: str) -> Both:
    """Heads, neurons, blocks, whole layers and both kinds of k, first and again."""
    selects = SELECTABLE_SCORES not in architecture_of(model_type).lacks
    heads, ffn, none, no_ffn = Kept(of=4, kept=(1, 3)), Kept(of=64, kept=EVEN), NONE, NO_FFN

    def topk(k: int, mode: str = "renormalised") -> dict[str, Choice]:
        return {"topk": Setting(value=k, mode=mode)} if selects else {}

    def largest(k: int) -> dict[str, Choice]:
        return {"ffn_topk": Setting(value=k, mode="largest")}

    at = 1 if model_type in KEEPS_FIRST else 0  # where the original's layer 1 is in the export
    first: dict[SiteId, dict[str, Choice]] = {
        site(0, "attention"): {"heads": none},
        site(0, "ffn"): {"ffn": no_ffn},
        site(1, "attention"): {"heads": heads, **topk(8)},
        site(1, "ffn"): {"ffn": ffn, **largest(20)},
        site(2, "attention"): {"heads": none},
        site(3, "ffn"): {"ffn": no_ffn},
        site(4, "attention"): topk(9, "hard"),
        site(4, "ffn"): largest(30),
    }
    second: dict[SiteId, dict[str, Choice]] = {
        site(at, "attention"): {"heads": Kept(of=2, kept=(1,)), **topk(5)},
        site(at, "ffn"): {"ffn": Kept(of=32, kept=FOURTH)},
        site(at + 1, "ffn"): {"ffn": Kept(of=64, kept=(5, 6, 60))},
        site(at + 2, "attention"): {"heads": none},
        site(at + 3, "ffn"): largest(12),
    }
    joint: dict[SiteId, dict[str, Choice]] = {
        site(0, "attention"): {"heads": none},
        site(0, "ffn"): {"ffn": no_ffn},
        site(1, "attention"): {"heads": Kept(of=4, kept=(3,)), **topk(5)},
        # 8 neurons are left, of which a token cannot use 20
        site(1, "ffn"): {"ffn": Kept(of=64, kept=tuple(EVEN[unit] for unit in FOURTH))},
        site(2, "attention"): {"heads": none},
        site(2, "ffn"): {"ffn": Kept(of=64, kept=(5, 6, 60))},
        site(3, "attention"): {"heads": none},
        site(3, "ffn"): {"ffn": no_ffn},
        site(4, "attention"): topk(9, "hard"),
        site(4, "ffn"): largest(12),
    }
    stays = {"albert": [0, 1, 2, 3, 4], "deberta-v2": [0, 1, 2, 4]}.get(model_type, [1, 2, 4])
    return Both(Recipe.of(first), Recipe.of(second), Recipe.of(joint), stays)


NONE, NO_FFN = Kept(of=4, kept=()), Kept(of=64, kept=())
FAMILIES = sorted({family.model_types[0] for family in architectures().values()})


def deep_model(model_type: str) -> PreTrainedModel:
    return random_model(model_type, num_hidden_layers=LAYERS, **DEEP.get(model_type, {}))


class Chain(NamedTuple):
    """The exports of each family, and what another process says of the second ones."""

    room: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    room = tmp_path_factory.mktemp("chain")
    wanted = []
    for model_type in FAMILIES:
        recipes = both(model_type)
        first = bundle_of(deep_model(model_type), recipes.first)
        once = write_export(first, room / f"{model_type}-once")
        twice = bundle_of(open_export(once), recipes.second)
        folder = write_export(twice, room / f"{model_type}-twice")
        inputs = room / f"{model_type}.safetensors"
        save_file(padded_batch(model_type), inputs)
        wanted.append((str(folder), twice.auto_class, str(inputs), True))
    return Chain(room, opened_elsewhere(room, wanted))


@pytest.mark.parametrize("model_type", FAMILIES)
class TestEveryFamily:
    def test_counts_sites_as_they_are_in_the_export(self, chain: Chain, model_type: str) -> None:
        model = open_export(chain.room / f"{model_type}-once")
        at = 1 if model_type in KEEPS_FIRST else 0
        counts = {id: one.count for id, one in Base(model).sites.items() if one.units}
        assert counts == {
            site(at, "attention"): 2,
            site(at, "ffn"): 32,
            site(at + 1, "ffn"): 64,
            site(at + 2, "attention"): 4,
            site(at + 3, "attention"): 4,
            site(at + 3, "ffn"): 64,
        }
        assert set(Base(model).gates(model)) == set(counts)
        made = {id: one.made for id, one in Base(model).sites.items() if one.made}
        topk = SELECTABLE_SCORES not in architecture_of(model_type).lacks
        assert made == {
            **({site(at, "attention"): {"topk": 8}} if topk else {}),
            site(at, "ffn"): {"ffn_topk": 20},
            **({site(at + 3, "attention"): {"topk": 9}} if topk else {}),
            site(at + 3, "ffn"): {"ffn_topk": 30},
        }

    def test_says_what_was_done_to_the_original(self, chain: Chain, model_type: str) -> None:
        folder, expected = chain.room / f"{model_type}-twice", both(model_type)
        config = json.loads((folder / "config.json").read_text())
        ours, once = config["axsearch"], chain.room / f"{model_type}-once" / "config.json"
        assert Recipe.from_dict(ours["recipe"]) == expected.joint
        assert Recipe.read(folder / "recipe.json") == expected.joint
        assert ours["layers"] == expected.layers
        base = type(deep_model(model_type)).__name__
        assert (config["model_type"], ours["base_class"]) == (f"axsearch_{model_type}", base)
        assert config.keys() == json.loads(once.read_text()).keys()

    def test_answers_elsewhere_as_the_original_with_both_recipes(
        self, chain: Chain, model_type: str
    ) -> None:
        expected = shrink(deep_model(model_type), both(model_type).joint)
        folder, batch = chain.room / f"{model_type}-twice", padded_batch(model_type)
        with torch.inference_mode():
            logits = expected(**batch).logits
            again = open_export(folder)(**batch).logits
        found = load_file(f"{folder}.out")["logits"]
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(again, logits, rtol=0, atol=1e-5)
        once = open_export(chain.room / f"{model_type}-once")
        with torch.inference_mode():  # or the second step would show nothing
            assert (once(**batch).logits - logits).abs().max() > 1e-3
        said = chain.found[str(folder)]
        assert not any(said["info"].values()), said["info"]
        assert said["parameters"] == sum(p.numel() for p in expected.parameters())


def test_without_the_layers_that_were_cut_an_export_is_a_plain_checkpoint_again(
    tmp_path: Path,
) -> None:
    base = random_model("bert", num_hidden_layers=3)
    cut = Recipe.of({site(1, "attention"): {"heads": Kept(of=4, kept=(2,))}})
    once = open_export(write_export(bundle_of(base, cut), tmp_path / "once"))
    whole = {
        site(1, "attention"): {"heads": Kept(of=1, kept=())},
        site(1, "ffn"): {"ffn": NO_FFN},
    }
    folder = write_export(bundle_of(once, Recipe.of(whole)), tmp_path / "twice")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert not list(folder.glob("*.py"))
    # Made smaller once more, by a recipe of layers 0 and 2 of the original.
    last = Recipe.of({site(1, "attention"): {"heads": NONE}})
    third = write_export(bundle_of(open_export(folder), last), tmp_path / "third")
    ours = json.loads((third / "config.json").read_text())["axsearch"]
    assert ours["layers"] == [0, 2]
    assert Recipe.from_dict(ours["recipe"]) == Recipe.of(
        {
            site(1, "attention"): {"heads": NONE},
            site(1, "ffn"): {"ffn": NO_FFN},
            site(2, "attention"): {"heads": NONE},
        }
    )
    batch = padded_batch("bert")
    with torch.inference_mode():
        found = open_export(third)(**batch).logits
        expected = shrink(base, Recipe.from_dict(ours["recipe"]))(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
