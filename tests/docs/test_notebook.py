"""The notebook runs on a study like the demo's, is small, and is committed without output."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import axsearch
from axsearch import search
from axsearch.running.holdout import evaluate_front
from axsearch.testing.latency import MEASURE, table_by_units
from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "studies" / "movie_reviews.ipynb"
NAME = "movie-reviews"


@pytest.fixture(scope="module")
def storage(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a tiny study of the demo's name, whose holdout split was opened."""
    url = f"sqlite:///{tmp_path_factory.mktemp('notebook') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)  # or noise may stop a trial, and say other numbers
        given = {"trials": 8, "staged": False}
        study = search(str(base_dir), str(data_dir), storage=url, study=NAME, **given)
    evaluate_front(study)
    study.database.close()
    return url


def test_it_runs_and_shows_front_figures_and_the_chosen_model(
    storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AXSEARCH_STORAGE", storage)
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")  # without plotly.js
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel
    for folder in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # nothing is left in the user's
        monkeypatch.setenv(folder, str(tmp_path / folder))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    done = NotebookClient(notebook, timeout=120, resources=where).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    shown = [o.data for o in outputs if "data" in o]
    assert "8 trials of" in printed
    assert f"{NAME}: front of" in printed  # ! does not say whether its command failed
    assert f"axsearch export --storage {storage} --study {NAME}" in printed
    assert sum("application/vnd.plotly.v1+json" in data for data in shown) == 3
    assert sum("text/html" in data for data in shown) >= 2
    told = [o.text for o in outputs if o.get("name") == "stderr"]
    assert all("IProgress not found" in words for words in told), told  # tqdm's, on ipywidgets


def test_it_is_small_has_no_output_and_uses_public_names_only() -> None:
    assert NOTEBOOK.stat().st_size < 8_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert not cell.outputs
        assert cell.execution_count is None
        python = "\n".join(line for line in cell.source.splitlines() if line[:1] != "!")
        for node in ast.walk(ast.parse(python)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("axsearch"):
                assert node.module == "axsearch"
                assert {name.name for name in node.names} <= set(axsearch.__all__)
