"""A new approximation is a folder that lies in the package's path; nothing else is edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from axsearch import Recipe, Study, UsageError, export_model, search, verify_export
from axsearch import approximations as package
from axsearch.approximations import Approximation, approximations
from axsearch.approximations.site import SiteId
from axsearch.cli.front import print_front
from axsearch.models.base_model import Base
from axsearch.reporting.explanation import explain_trial
from axsearch.reporting.figures.layer_map import layer_map
from axsearch.reporting.gallery import study_figures
from axsearch.study.tables import Tables
from axsearch.testing.approximations import ApproximationContract
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.text import tiny_bert
from tests.extension.conftest import Drop
from tests.extension.toy_approximation import FILES

NAMES = ("heads", "ffn", "damped")
DAMPED = {"version": 1, "sites": {"layer01.ffn": {"damped": {"percent": 90, "version": 3}}}}


@pytest.fixture(scope="module", autouse=True)
def _toy(drop: Drop) -> None:
    drop(package, FILES)


@pytest.fixture(scope="module")
def study(
    base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Study]:
    url = f"sqlite:///{tmp_path_factory.mktemp('toy')}/toy.db"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)  # or noise may say that a level is not faster
        found = search(
            str(base_dir), str(data_dir), storage=url, study="toy", trials=12, approximations=NAMES,
            search_examples=64, batch_size=4, threads=1, staged=False, sampler="random",
        )  # fmt: skip
    yield found
    found.database.close()


def damped_trial(study: Study) -> int:
    """A trial that has the toy at a layer that keeps its FFN."""
    for member in study.measurements:
        if any(kept["damped"] is not None for kept in member.choices.values()):
            assert member.trial is not None
            return member.trial
    raise AssertionError("no trial is damped")


class TestContract(ApproximationContract):
    """The toy keeps what every approximation promises."""

    @pytest.fixture
    def model_type(self) -> str:
        return "bert"

    @pytest.fixture
    def approximation(self) -> Approximation:
        return approximations()["damped"]


def test_a_recipe_reads_and_writes_its_choice() -> None:
    recipe = Recipe.from_dict(DAMPED)
    assert recipe.to_dict() == DAMPED
    for wrong in ({"percent": 90}, {"percent": 90, "version": 4}, {"share": 1, "version": 3}):
        sites = {"layer01.ffn": {"damped": wrong}}
        with pytest.raises(UsageError, match=r"layer01\.ffn, 'damped'"):
            Recipe.from_dict({"version": 1, "sites": sites})


def test_a_model_lacks_the_tensor_and_has_the_module() -> None:
    base = Base(tiny_bert())
    recipe = Recipe.from_dict(DAMPED)
    state = base.cut(recipe)
    assert set(base.state) - set(state) == {"bert.encoder.layer.1.output.dense.bias"}
    ids = torch.tensor([[2, 5, 7, 3]])
    with torch.no_grad():
        small, whole = base.shrink(recipe, state)(ids).logits, base.model(ids).logits
    assert not torch.equal(small, whole)
    assert Base(tiny_bert()).plan(recipe).layers == (0, 1, 2)


def test_a_choice_that_does_not_fit_is_refused() -> None:
    too_much = {"version": 1, "sites": {"layer01.ffn": {"damped": {"percent": 0, "version": 3}}}}
    elsewhere = {"version": 1, "sites": {"layer01.attention": DAMPED["sites"]["layer01.ffn"]}}
    for data, message in (
        (too_much, "damps too much"),
        (elsewhere, "'damped' at layer01.attention"),
    ):
        with pytest.raises(UsageError, match=message):
            Base(tiny_bert()).plan(Recipe.from_dict(data))


def test_the_genome_has_it(study: Study) -> None:
    damped = {name: levels for name, levels in study.spec.levels.items() if "damped" in name}
    assert damped == {f"layer{layer:02d}.damped": [None, 95, 90] for layer in range(3)}
    trial = study.frozen([damped_trial(study)]).popitem()[1]
    assert {f"layer{layer:02d}.damped" for layer in range(3)} <= set(trial.params)


def test_its_size_and_its_time_are_known(study: Study) -> None:
    site, recipe = SiteId(1, "ffn"), Recipe.from_dict(DAMPED)
    sizes, table = Tables(study).size, Tables(study).latency
    assert sizes is not None
    assert table is not None
    assert sizes.saved(recipe, site) * study.baseline.size_bytes == pytest.approx(4 * 32)
    assert "ffn damped=90" in table.blocks
    assert table.ratio(recipe) > 0


def test_the_front_shows_it(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    number = damped_trial(study)
    member = study.trial(number)
    shown = member.model_dump(mode="json")
    assert {kept["damped"] for kept in shown["choices"].values()} & {95, 90}
    print_front(study)
    assert "heads / neurons kept, layer by layer" in capsys.readouterr().out
    kept = next(kept for kept in member.choices.values() if kept["damped"] is not None)
    from axsearch.cli.front import _layer

    assert _layer(kept) == f"{kept['heads']}/{kept['ffn']}/d{kept['damped']}"


def test_explain_says_it(study: Study) -> None:
    found = explain_trial(study, damped_trial(study))
    text = " ".join(found.sentences)
    assert "keep only some percent of an activation" in text
    assert "It is damped." in text
    assert any("percent of an activation" in cut.kept for cut in found.cuts)


def test_figures_draw_it(study: Study) -> None:
    drawn = {name: json.dumps([f.to_plotly_json() for f in figures], default=str)
             for name, figures in study_figures(study).items()}  # fmt: skip
    # The trial need not be in the front, whose latency is measured.
    mapped = layer_map([study.trial(damped_trial(study))], study.baseline)
    assert "damping" in json.dumps(mapped.to_plotly_json(), default=str)
    assert "damping" in drawn["damage_table"]
    assert "percent left" in drawn["damage_table"]
    assert "damping 90" in drawn["latency_table"]


@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_it_is_exported_and_opens_without_axsearch(
    study: Study, format: str, tmp_path: Path
) -> None:
    out = tmp_path / format
    export_model(study, damped_trial(study), str(out), format=format, force=True)
    assert verify_export(str(out)).difference < 1e-3
    if format == "hf":
        source = (out / "modeling_axsearch.py").read_text()
        assert "class Damper" in source
        assert "axsearch_topk" not in source  # only what the recipe uses is carried
