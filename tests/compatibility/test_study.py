"""The database of an earlier release: read, resumed, and searched again for the same numbers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from axsearch import Study, explain_trial, search
from tests.compatibility.record import LAYERS_NAME, NAME, everywhere, trials_of


@pytest.fixture
def _on_its_machine(recorded: dict[str, Any]) -> Iterator[None]:
    """This machine has the name of the one that the database was made on: it has its times."""
    with everywhere("machine_name", lambda _: lambda: recorded["machine"]):
        yield


def says(found: Any, recorded: Any, where: str = "") -> None:
    """Check that all that was recorded is found; there may be more in a later release."""
    if isinstance(recorded, dict):
        assert isinstance(found, dict), where
        for key, value in recorded.items():
            assert key in found, f"{where}.{key}"
            says(found[key], value, f"{where}.{key}")
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), where
        for number, (own, value) in enumerate(zip(found, recorded, strict=True)):
            says(own, value, f"{where}[{number}]")
    elif isinstance(recorded, float):
        # Not to the last bit: another processor may add up in another order.
        assert found == pytest.approx(recorded, rel=1e-6, abs=1e-9), where
    else:
        assert found == recorded, where


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def test_it_says_of_a_study_what_it_said(database: Path, recorded: dict[str, Any]) -> None:
    study = Study.open(f"sqlite:///{database}", NAME)
    says(trials_of(study), recorded["trials"], "trials")
    says(study.baseline.model_dump(mode="json"), recorded["baseline"], "baseline")
    says([m.model_dump(mode="json") for m in study.front()], recorded["front"], "front")
    for pick in recorded["picks"]:
        found = study.pick(**pick["limits"]).model_dump(mode="json")
        says(found, pick["picked"], f"pick {pick['limits']}")
    for trial, cuts in recorded["explained"].items():
        says(explain_trial(study, int(trial)).to_dict()["cuts"], cuts, f"cuts of {trial}")
    study.database.close()


def test_whole_layers_and_no_latency(database: Path) -> None:
    study = Study.open(f"sqlite:///{database}", LAYERS_NAME)
    assert [m.trial for m in study.front()]
    assert all(m.latency_ratio is None for m in study.front())
    gone = {name for cut in explain_trial(study, 2).cuts for name in (cut.name, cut.block)}
    assert gone == {"layer00", "layer02", "layer"}
    study.database.close()


@pytest.mark.usefixtures("_on_its_machine")
def test_it_is_resumed_without_measuring_anything_again(
    database: Path,
    recorded: dict[str, Any],
    model_and_data: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {
        "ax_calibrations": "SELECT * FROM ax_calibrations ORDER BY model, split, kind",
        "ax_evaluations": "SELECT * FROM ax_evaluations ORDER BY created, split, recipe, stage",
        "ax_latencies": "SELECT * FROM ax_latencies ORDER BY id",
        "trial_values": "SELECT * FROM trial_values ORDER BY trial_value_id",
    }
    tables = "SELECT count(*) FROM ax_latencies WHERE entry IS NOT NULL"
    Study.open(f"sqlite:///{database}", NAME).database.close()  # which brings it up to date
    before = {table: rows(database, query) for table, query in known.items()}
    timed = rows(database, tables)
    settings = {**recorded["settings"], "trials": recorded["settings"]["trials"] + 3}
    storage = f"sqlite:///{database}"
    study = search(*model_and_data, storage=storage, study=NAME, **settings)
    says(trials_of(study)[: len(recorded["trials"])], recorded["trials"], "trials")
    hashes = [trial["hash"] for trial in trials_of(study)]
    ways = {m.recipe.get("compensation", "none") for m in study.measurements}
    assert (study.spec.compensation, study.spec.polished) == ("least_squares", "")
    assert ways == {"none", "least_squares"}
    study.database.close()
    assert len(set(hashes)) == settings["trials"]
    after = {table: rows(database, query) for table, query in known.items()}
    assert after["ax_calibrations"] == before["ax_calibrations"]
    assert all(set(before[table]) <= set(after[table]) for table in known)
    assert rows(database, tables) == timed
    assert "latency table was measured by axsearch 0.1" in " ".join(capsys.readouterr().err.split())
    new = len(after["ax_evaluations"]) - len(before["ax_evaluations"])
    assert new <= len(hashes) - len(recorded["trials"])


@pytest.mark.usefixtures("_on_its_machine")
def test_the_same_study_gives_the_same_numbers(
    database: Path,
    recorded: dict[str, Any],
    model_and_data: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With the release's latency table, which a new study would measure again.
    monkeypatch.setattr("axsearch.running.search.LATENCY_TABLES", 1)
    calibrations = "SELECT * FROM ax_calibrations ORDER BY model, split, kind"
    before = rows(database, calibrations)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM ax_evaluations")
        connection.commit()
    storage = f"sqlite:///{database}"
    # What the release did by default.
    then = {"compensation": "least_squares", "approximations": ("ffn", "heads", "topk")}
    settings = {**then, **recorded["settings"]}
    study = search(*model_and_data, storage=storage, study="again", **settings)
    found = trials_of(study)
    study.database.close()
    says(found, recorded["trials"], "trials")
    assert rows(database, calibrations) == before
