"""How the weights of a search are refitted where nobody says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from axsearch import Study, search
from axsearch.errors import UsageError
from axsearch.evaluation.closed_form import polished_key
from axsearch.evaluation.loading import load_task
from axsearch.samplers import samplers
from axsearch.testing.models import random_model
from axsearch.testing.text import tiny_tokenizer

Search = Callable[..., Study]


@pytest.fixture
def run(base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """A search without latency, of three trials; keywords replace its arguments."""
    monkeypatch.setattr("axsearch.reporting.dashboard.annotating.annotate", lambda study: None)
    given = {
        "model": str(base_dir), "data": str(data_dir), "storage": f"sqlite:///{tmp_path}/new.db",
        "study": "new", "trials": 3, "objectives": ("accuracy", "size"), "staged": False,
    }  # fmt: skip
    return lambda **changed: search(**{**given, **changed})  # type: ignore[arg-type]


def ways(study: Study) -> set[str]:
    """The compensations of all that was tried."""
    return {measured.recipe.get("compensation", "none") for measured in study.measurements}


def test_of_all_samplers_but_axformer_it_is_sequential() -> None:
    usual = {name: sampler.default_compensation for name, sampler in samplers().items()}
    assert usual.pop("axformer") == "none"
    assert {*usual.values()} == {"sequential"}
    assert len(usual) > 5


def test_a_search_refits_sequentially_and_polishes_its_front(
    run: Search, more_data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = run(data=str(more_data_dir))
    assert study.spec.compensation == "sequential"
    assert study.spec.polished == polished_key(load_task(study.spec))
    assert ways(study) == {"none", "sequential"}  # the base has nothing to be refitted
    assert "of the front polished in" in capsys.readouterr().err


def test_where_layers_share_their_weights_it_is_least_squares(
    run: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "albert"
    random_model("albert", num_hidden_groups=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    given = {"model": str(folder), "force": True}
    with pytest.raises(UsageError, match=r'`compensation="sequential"` cannot be used: several'):
        run(**given, compensation="sequential")
    study = run(**given)
    assert (study.spec.compensation, study.spec.polished) == ("least_squares", "")
    assert ways(study) == {"none", "least_squares"}
    assert "polished" not in capsys.readouterr().err


@pytest.mark.parametrize("way", ["none", "least_squares"])
def test_a_study_that_exists_keeps_its_own(
    run: Search, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("what only the default needs was measured")

    monkeypatch.setattr("axsearch.evaluation.closed_form.measure_sample", never)
    assert run(trials=1, compensation=way).spec.compensation == way
    resumed = run()
    assert (resumed.spec.compensation, resumed.spec.polished) == (way, "")
    assert ways(resumed) == {"none", way}
    with pytest.raises(UsageError, match="another compensation"):
        run(compensation="sequential")
