"""Exports that the classes of transformers hold: whole layers, and one width of all FFNs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from axsearch import export_model, remeasure, search, verify_export
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import FFN, SiteId
from axsearch.errors import UsageError
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.base_model import Base
from axsearch.models.exported import open_export
from axsearch.models.weights import shrink
from axsearch.reporting.explanation import explain_trial
from axsearch.reporting.report import search_command
from axsearch.running.session import _not_plain
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import Recipe
from axsearch.study.rankings import ranked
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import padded_batch, random_model

FAMILIES = sorted({family.model_types[0] for family in architectures().values()})


def one_width(model_type: str, count: int = 24) -> Recipe:
    """So many neurons in each layer, in each of them others."""
    sites = Base(random_model(model_type)).sites
    return Recipe.of(
        {
            id: {"ffn": Kept(of=site.count, kept=tuple(range(id.layer, count + id.layer)))}
            for id, site in sites.items()
            if id.kind == FFN
        }
    )


def logits(model: Any, model_type: str) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**padded_batch(model_type)).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_one_width_of_all_ffns_is_a_plain_checkpoint(model_type: str, tmp_path: Path) -> None:
    base, recipe = random_model(model_type), one_width(model_type)
    folder = write_export(bundle_of(base, recipe), tmp_path / "plain")
    assert not list(folder.glob("*.py"))
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    opened, found = type(base).from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    wanted = logits(shrink(base, recipe), model_type)
    assert torch.allclose(logits(opened, model_type), wanted, atol=1e-5)
    assert base.config.to_dict() == random_model(model_type).config.to_dict()
    # With other heads in one layer it needs code again, which counts from the original's width.
    small = open_export(folder)
    heads = Recipe.of({SiteId(0, "attention"): {"heads": Kept(of=4, kept=(1, 3))}})
    further = write_export(bundle_of(small, heads), tmp_path / "odd")
    joint = Base(small).plan(heads).after.recipe
    assert logits(open_export(further), model_type).allclose(
        logits(shrink(base, joint), model_type), atol=1e-5
    )


def test_layers_of_two_widths_are_no_plain_checkpoint() -> None:
    base = Base(random_model("bert"))
    recipe = one_width("bert")
    assert base.plan(recipe).plain
    assert base.plan(recipe).entries == {"intermediate_size": 24}
    ids = [id for id in base.sites if id.kind == FFN]
    fewer = {**{id: dict(own) for id, own in recipe.sites}, ids[0]: {"ffn": Kept(of=64, kept=(1,))}}
    some = {id: dict(own) for id, own in recipe.sites if id != ids[0]}
    for sites in (fewer, some):
        assert not base.plan(Recipe.of(sites)).plain
    # A layer that is removed has no width.
    none = {"heads": Kept(of=4, kept=())}, {"ffn": Kept(of=64, kept=())}
    without = {**some, SiteId(0, "attention"): none[0], ids[0]: none[1]}
    assert base.plan(Recipe.of(without)).plain


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_family_makes_layers_of_other_widths_by_per_layer_config(model_type: str) -> None:
    """Where this fails a class reads them, and exports of different widths can do without code."""
    base = random_model(model_type)
    config = copy.deepcopy(base.config)
    config.per_layer_config = {1: {architecture_of(model_type).widths[FFN]: 32}}
    with pytest.raises(Exception, match="is a per-layer attribute and may vary"):
        type(base)(config)


def test_levels_that_leave_no_plain_checkpoint_are_told() -> None:
    found = {}
    for kind in ("bert", "modernbert", "albert", "deberta-v2"):
        base = Base(random_model(kind))
        sites = list(base.sites.values())
        orders = {id: range(site.count) for id, site in base.sites.items()}
        space = SearchSpace(sites, orders, names=["layer", "ffn_width"])
        found[kind] = _not_plain(SimpleNamespace(base=base), space)  # type: ignore[arg-type]
    assert found["bert"] == {}
    assert list(found["modernbert"]) == ["layer00.layer"]  # which alone has no norm
    assert list(found["deberta-v2"]) == ["layer00.layer"]  # which stays where all are lost
    assert {name.partition(".")[2] for name in found["albert"]} == {"layer"}  # its layers share


def test_a_portable_search_makes_plain_checkpoints_only(
    base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    study = search(
        str(base_dir), str(data_dir), storage=f"sqlite:///{tmp_path / 's.db'}", study="s",
        trials=8, objectives=("accuracy", "size"), portable=True,
    )  # fmt: skip
    base = Base(transformers.AutoModelForSequenceClassification.from_pretrained(base_dir))
    recipes = [Recipe.from_dict(one.recipe) for one in study.measurements]
    assert all(base.plan(recipe).plain for recipe in recipes)
    widths = [len({len(dict(own)["ffn"].kept) for id, own in recipe.sites if id.kind == FFN} - {0})
              for recipe in recipes]  # fmt: skip
    assert max(widths) == 1
    assert study.asked[1].portable
    again = search(  # which keeps what it is
        str(base_dir), str(data_dir), storage=f"sqlite:///{tmp_path / 's.db'}", study="s",
        trials=9, objectives=("accuracy", "size"),
    )  # fmt: skip
    assert again.count >= 8
    assert " --portable" in search_command(again)
    cuts = [cut for one in again.front() for cut in explain_trial(again, one.trial or 0).cuts]
    shared = [cut for cut in cuts if cut.layer == "all layers"]
    assert all(cut.damage is not None and cut.damage > 0 for cut in shared)
    assert shared
    found = remeasure(study, runtime="torch", precision="bfloat16")
    shown = ranked(again, "torch", "bfloat16")  # though the study has no latencies
    assert [one.trial for one in shown.front()] == [one.trial for one in found.front]
    assert shown.spec.objectives == ("accuracy", "size", "latency")
    trial = next(one.trial for one in study.front() if one.size_ratio < 1)
    assert trial is not None
    folder = Path(export_model(study, trial, str(tmp_path / "small"), force=True))
    verify_export(str(folder))
    assert not list(folder.glob("*.py"))
    sentences = pytest.importorskip("sentence_transformers")
    vectors = sentences.SentenceTransformer(str(folder), device="cpu").encode(["a film"])
    assert vectors.shape == (1, base.model.config.hidden_size)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"approximations": ("heads",)}, "`approximations=heads` leaves layers that no class"),
        ({"sampler": "axformer"}, "cannot go with the sampler axformer"),
        ({"freeze": ("layer00",)}, "'ffn_width' sets all layers, so that none"),
    ],
)
def test_what_leaves_no_plain_checkpoint_is_refused(
    more: dict[str, Any], said: str, base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        search(
            str(base_dir), str(data_dir), storage=f"sqlite:///{tmp_path / 's.db'}", study="s",
            trials=8, objectives=("accuracy", "size"), portable=True, **more,
        )  # fmt: skip
