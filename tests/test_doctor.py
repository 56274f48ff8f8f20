"""What the doctor says of databases that are well, and of those that are not."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text

from axsearch import doctor
from axsearch.cli import main
from axsearch.doctor import Finding, examine
from axsearch.store.database import VERSION_TABLE, open_database, peek
from tests.faults.cheap import Cheap, a_loop

STUDY = "cheap"


def found(url: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(url)}


@pytest.fixture
def searched(url: str) -> str:
    """A database with a study of four trials."""
    database = open_database(url, create=True)
    a_loop(database, Cheap(0.0, _no, _no), 4).run()
    database.close()
    return url


def _no() -> None:
    """What happens within a trial, and before it ends."""


def change(url: str, statement: str, **values: object) -> None:
    database = open_database(url)
    with database.engine.begin() as connection:
        assert connection.execute(text(statement), values).rowcount
    database.close()


def test_all_is_well(searched: str) -> None:
    findings = found(searched)
    assert all(finding.state != "failure" for finding in findings.values())
    assert {"versions", "threads", "memory", "machine", "kernels", "temporary folder"} <= {
        *findings
    }
    for name in ("database", "schema", "clock", f"heartbeats of {STUDY}", f"artifacts of {STUDY}"):
        assert findings[name].state == "ok"
        assert not findings[name].advice
    assert findings[f"heartbeats of {STUDY}"].found == "0 trials are running"
    assert findings[f"artifacts of {STUDY}"].found == "4 open and match their checksums"
    assert ("disk" in findings) == searched.startswith("sqlite")
    assert findings["commit"].found.startswith("a commit takes ")


def test_a_trial_whose_worker_fell_silent(searched: str) -> None:
    database = open_database(searched)
    study = optuna.load_study(study_name=STUDY, storage=database.storage)
    number = study.ask().number
    database.close()
    assert found(searched)[f"heartbeats of {STUDY}"].found == "1 trials are running"
    then = "'2020-01-01 00:00:00'"
    change(searched, f"UPDATE trials SET datetime_start = {then} WHERE state = 'RUNNING'")
    change(searched, f"UPDATE trial_heartbeats SET heartbeat = {then}")
    finding = found(searched)[f"heartbeats of {STUDY}"]
    assert finding.state == "warning"
    assert f"trials {number} have been silent" in finding.found
    assert "axsearch worker" in finding.advice


@pytest.mark.parametrize(
    "fault", ["UPDATE ax_artifacts SET data = :data", "DELETE FROM ax_artifacts"]
)
def test_artifacts_that_were_changed_or_are_missing(searched: str, fault: str) -> None:
    change(searched, fault, **({"data": b"{}"} if ":data" in fault else {}))
    finding = found(searched)[f"artifacts of {STUDY}"]
    assert finding.state == "failure"
    assert "recipe.json of trial 0; recipe.json of trial 1" in finding.found


def test_an_artifact_that_was_removed_in_the_dashboard(searched: str) -> None:
    database = open_database(searched)
    with database.engine.begin() as connection:
        connection.execute(
            text("UPDATE trial_system_attributes SET value_json = :v WHERE key LIKE 'artifacts:%'"),
            {"v": json.dumps(json.dumps(None))},
        )
    database.close()
    assert found(searched)[f"artifacts of {STUDY}"].found == "0 open and match their checksums"


def test_what_cannot_be_looked_at_is_a_finding(
    searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "attached", broken)
    monkeypatch.setattr(doctor, "SLOW", 0.0)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**62)
    monkeypatch.setattr("tempfile.gettempdir", lambda: os.fspath(Path("/")))
    findings = found(searched)
    assert findings[f"artifacts of {STUDY}"].state == "failure"
    assert "RuntimeError: no such thing" in findings[f"artifacts of {STUDY}"].found
    for name in ("commit", "temporary folder", *(["disk"] * searched.startswith("sqlite"))):
        assert findings[name].state == "warning"
        assert findings[name].advice
    monkeypatch.setenv("AXSEARCH_GRACE_PERIOD", "soon")
    assert "AXSEARCH_GRACE_PERIOD must be" in found(searched)["heartbeat"].found


def test_a_clock_that_is_away(searched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axsearch.doctor.time", Late())
    clock = found(searched)["clock"]
    assert clock.state == ("ok" if searched.startswith("sqlite") else "warning")


class Late:
    """A clock an hour ahead."""

    perf_counter = staticmethod(time.perf_counter)

    @staticmethod
    def time() -> float:
        return time.time() + 3600


def test_versions_of_the_schema(url: str) -> None:
    open_database(url, create=True).close()
    _version(url, "0003")
    for _ in range(2):  # it is left as it is
        assert found(url)["schema"].state == "warning"
        assert found(url)["schema"].found.startswith("version 0003 is older")
    _version(url, "9999")
    assert found(url)["schema"] == Finding(
        "schema", "failure", "version 9999 is newer", "update axsearch"
    )


def _version(url: str, version: str) -> None:
    with peek(url) as engine, engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))


def test_a_database_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in (
        f"sqlite:///{tmp_path / 'none.db'}",
        "postgresql+psycopg://me:secret@127.0.0.1:9/none",
    ):
        monkeypatch.setattr(sys, "argv", ["axsearch", "doctor", "--storage", url, "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        findings = {each["name"]: each for each in json.loads(said.out)}
        assert findings["database"]["state"] == "failure"
        assert said.err == "axsearch: not well: database.\n"
        assert "secret" not in said.out
        assert stop.value.code == 1
    assert not list(tmp_path.iterdir())


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 2**62)
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>99", "not-there-at-all"])
    monkeypatch.setattr("torch.get_num_threads", lambda: 999)
    monkeypatch.setattr("axsearch.kernels.native.native_library", lambda: None)
    findings = {finding.name: finding for finding in examine()}
    assert findings["versions"].state == "failure"
    assert "needed is >99; not-there-at-all is not installed" in findings["versions"].found
    for name in ("threads", "memory", "kernels"):
        assert findings[name].state == "warning"
        assert findings[name].advice


@pytest.mark.skipif(sys.platform != "linux", reason="counts processors as Linux does")
def test_threads_that_an_environment_keeps_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (threads,) = [finding for finding in examine() if finding.name == "threads"]
    assert threads.found == "1 torch threads on 8 processors"
    assert "OMP_NUM_THREADS is set" in threads.advice
