"""A new family with sites of kinds that no other has, and approximations that act on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from axsearch import Recipe, Study, export_model, runtimes, search, verify_export
from axsearch import approximations as package
from axsearch.approximations import Approximation, approximations
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.cli.front import print_front
from axsearch.models import architectures
from axsearch.models.base_model import Base
from axsearch.reporting.explanation import explain_trial
from axsearch.reporting.gallery import study_figures
from axsearch.study.tables import Tables
from axsearch.tasks.task import Task
from axsearch.testing.approximations import ApproximationContract
from axsearch.testing.architectures import ArchitectureContract
from axsearch.testing.latency import MEASURE, table_by_units
from tests.extension.conftest import Drop
from tests.extension.toy_family import APPROXIMATIONS, FAMILY
from tests.extension.toy_runtime import RUNTIME

NAMES = ("heads", "ffn", "layer", "norm_bias", "position_rows")
BOTH = {
    "version": 1,
    "sites": {
        "layer02.attention": {"heads": {"of": 4, "kept": []}},
        "layer02.ffn": {"ffn": {"of": 64, "kept": []}},
        "layer01.norm": {"norm_bias": {}},
        "positions": {"position_rows": {"rows": 48}},
    },
}


@pytest.fixture(scope="module", autouse=True)
def _dropped(drop: Drop) -> None:
    drop(package, APPROXIMATIONS)
    drop(architectures, FAMILY)
    drop(runtimes, RUNTIME)


@pytest.fixture(scope="module")
def ernie(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as an ERNIE, whose tensors have other names."""
    folder = tmp_path_factory.mktemp("ernie")
    for path in base_dir.iterdir():
        copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "ernie", "architectures": ["ErnieForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps({**config, "use_task_id": False}))
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("bert.", "ernie.", 1): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def study(ernie: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    url = f"sqlite:///{tmp_path_factory.mktemp('family')}/family.db"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)  # or noise may say that a level is not faster
        found = search(
            str(ernie), str(data_dir), storage=url, study="family", trials=14, approximations=NAMES,
            search_examples=64, batch_size=4, threads=1, staged=False, sampler="random",
            runtime="counted", precision="int8",
        )  # fmt: skip
    yield found
    found.database.close()


@pytest.fixture(scope="module")
def base(ernie: Path, data_dir: Path) -> Base:
    return Task.load(str(ernie), str(data_dir)).base


@pytest.fixture
def model_type() -> str:
    return "ernie"


class TestFamily(ArchitectureContract):
    """It keeps what every family promises."""


class TestApproximations(ApproximationContract):
    """At sites without units, in layers and outside of them."""

    @pytest.fixture(params=["norm_bias", "position_rows"])
    def approximation(self, request: pytest.FixtureRequest) -> Approximation:
        return approximations()[request.param]


def test_its_sites_have_scope_and_kind(base: Base) -> None:
    kinds = ("attention", "ffn", "norm")
    ids = [SiteId(layer, kind) for layer in range(3) for kind in kinds]
    assert list(base.sites) == [*ids, SiteId(OUTSIDE, "positions")]
    assert str(SiteId(OUTSIDE, "positions")) == "positions"
    assert SiteId.parse("positions") == SiteId(OUTSIDE, "positions")


def test_a_layer_without_its_blocks_is_removed_whatever_its_norm(base: Base) -> None:
    recipe = Recipe.from_dict(BOTH)
    assert recipe.to_dict() == BOTH
    assert base.plan(recipe).layers == (0, 1)
    state = base.cut(recipe)
    assert "ernie.encoder.layer.1.output.LayerNorm.bias" not in state
    assert len(state["ernie.embeddings.position_embeddings.weight"]) == 48
    small = base.shrink(recipe, state)
    assert small.ernie.encoder.layer[1].output.LayerNorm.bias is None
    assert len(small.ernie.encoder.layer) == 2
    ids = torch.tensor([[2, 5, 7, 3]])
    with torch.no_grad():
        assert torch.isfinite(small(ids).logits).all()


def test_positions_alone_change_nothing_that_is_short(base: Base) -> None:
    sites = {"positions": {"position_rows": {"rows": 48}}}
    recipe = Recipe.from_dict({"version": 1, "sites": sites})
    small = base.shrink(recipe, base.cut(recipe))
    ids = torch.tensor([[2, 5, 7, 3]])
    with torch.no_grad():
        torch.testing.assert_close(small(ids).logits, base.model(ids).logits)
    assert not base.plan(recipe).plain


def test_the_genome_and_the_tables_know_its_sites(study: Study) -> None:
    levels = study.spec.levels
    assert levels["positions.position_rows"] == [None, 48]
    assert levels["layer01.norm_bias"] == [1, 0]
    recipe = Recipe.from_dict(BOTH)
    table, sizes = Tables(study).latency, Tables(study).size
    assert table is not None
    assert sizes is not None
    assert table.outside == ("positions",)
    exact = sum(table.blocks[kind] for kind in table.kinds)
    assert table.rest + exact * sum(table.repeats.values()) == pytest.approx(1)
    assert table.ratio(recipe) > 0
    assert table.blocks["norm"] == 0  # it cannot be removed: only differences count
    saved = sizes.saved(recipe, SiteId(OUTSIDE, "positions")) * study.baseline.size_bytes
    assert saved == pytest.approx(16 * 32 + 16 * 4)  # in int8, with a scale for each row
    predicted = sizes.rest + sum(sizes.layer(recipe, layer) for layer in (OUTSIDE, 0, 1, 2))
    assert predicted < 1


def trial_of_both(study: Study) -> int:
    """A trial with fewer positions, and without the bias of a norm."""
    return next(
        m.trial
        for m in study.measurements
        if m.trial is not None and m.choices["positions"]["position_rows"] == 48
        if any(kept.get("norm_bias") == 0 for kept in m.choices.values())
    )


def test_front_explanation_and_figures_show_them(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    print_front(study)
    shown = " ".join(capsys.readouterr().out.split())
    assert "heads / neurons kept, layer by layer" in shown
    assert "cpu, counted int8" in shown
    found = explain_trial(study, trial_of_both(study))
    assert {"positions", "norm"} <= {cut.block for cut in found.cuts}
    drawn = study_figures(study)
    titles = json.dumps([f.to_plotly_json() for f in drawn["damage_table"]], default=str)
    assert "norm bias" in titles
    assert "positions" in titles


@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_it_is_exported_and_opens_without_axsearch(
    study: Study, format: str, tmp_path: Path
) -> None:
    out = tmp_path / format
    export_model(study, trial_of_both(study), str(out), format=format, force=True)
    assert verify_export(str(out)).difference < 1e-3
    assert "cpu, counted int8" in (out / "README.md").read_text()
    if format == "hf":
        source = (out / "modeling_axsearch.py").read_text()
        assert "class NormBiasModeling" in source
        assert "class PositionRowsModeling" in source
