"""What the doctor says of databases that are well, and of those that are not."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from axsearch import doctor
from axsearch.cli import main
from axsearch.doctor import Finding, examine
from axsearch.errors import AxsearchError
from axsearch.store import work_storage
from axsearch.store.access import VERSION_TABLE
from axsearch.store.claims import Assignment
from axsearch.store.database import open_database
from axsearch.store.identified_storage import IdentifiedStorage
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.trained_weights import weights_store
from axsearch.store.weights_files import WEIGHTS_VARIABLE
from axsearch.system.liveness import worker_name
from tests.common_fixtures import copied
from tests.faults.cheap import Cheap, a_loop, recipe_of
from tests.faults.test_replaced_studies import PARAMS, Another, Meanwhile, delete_study

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
    of_study = [f"{what} of {STUDY}" for what in ("heartbeats", "artifacts", "results")]
    for name in ("database", "schema", "clock", *of_study):
        assert findings[name].state == "ok"
        assert not findings[name].advice
    assert findings[f"heartbeats of {STUDY}"].found == "0 trials are running"
    assert findings[f"artifacts of {STUDY}"].found == "4 open and match their checksums"
    assert ("disk" in findings) == searched.startswith("sqlite")
    assert "recovered weights" not in findings  # there are none
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


def test_a_heartbeat_ahead_of_the_clock(searched: str) -> None:
    database = open_database(searched)
    study = optuna.load_study(study_name=STUDY, storage=database.storage)
    database.storage.work_on(Assignment(id_of_study(study), 9, "another"))
    number = study.ask().number
    database.close()
    change(searched, "UPDATE trial_heartbeats SET heartbeat = '2126-01-01 00:00:00'")
    finding = found(searched)[f"heartbeats of {STUDY}"]
    assert finding.state == "warning"
    assert f"heartbeats of trials {number} are up to" in finding.found
    assert "the clock was set back" in finding.advice


def test_the_end_of_another_study_s_trial(
    sqlite_template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As version 0.1 wrote it, which did not ask whose trial a number stands for."""
    monkeypatch.setattr(IdentifiedStorage, "_check_own", lambda *_: None)
    monkeypatch.setattr(work_storage, "check_whole", lambda *_: None)
    url = copied(sqlite_template, tmp_path)
    database = open_database(url)
    made: list[Another] = []

    def again() -> None:
        delete_study(url)
        made.append(Another(url))

    loop = a_loop(database, Meanwhile(database, again, lambda _, __, end: end), 3)
    with pytest.raises(AxsearchError):
        loop.run()
    database.close()
    made[0].database.close()
    finding = found(url)[f"results of {STUDY}"]
    assert finding.state == "failure"
    assert "(trial 0: its recipe.json is another recipe)" in finding.found
    assert "under another --study" in finding.advice


def test_the_end_that_another_worker_wrote(searched: str) -> None:
    ended = "UPDATE ax_trials SET worker = :worker WHERE trial_id = (SELECT trial_id FROM trials"
    change(searched, f"{ended} WHERE number = 1)", worker=worker_name())
    assert found(searched)[f"results of {STUDY}"].state == "ok"
    change(searched, f"{ended} WHERE number = 2)", worker="another")
    finding = found(searched)[f"results of {STUDY}"]
    assert "(trial 2: another worker ended it than began it)" in finding.found


def test_measurements_of_another_recipe(tiny_study: tuple[str, str], tmp_path: Path) -> None:
    url, name = copied(tiny_study[0], tmp_path), tiny_study[1]
    assert found(url)[f"results of {name}"].state == "ok"
    database = open_database(url)
    trials = database.storage.get_all_trials(1, states=(TrialState.COMPLETE,))
    first, second, third = trials[1:4]
    attribute = "key = 'measurement' AND trial_id = :trial"
    measured = dict(third.user_attrs["measurement"])
    with database.engine.begin() as connection:
        connection.execute(  # all of one, and the accuracy of another
            text(f"UPDATE trial_user_attributes SET value_json = :value WHERE {attribute}"),
            [
                {"value": json.dumps(second.user_attrs["measurement"]), "trial": first._trial_id},
                {"value": json.dumps({**measured, "accuracy": 0.05}), "trial": third._trial_id},
            ],
        )
        values = "SET value = :value WHERE trial_id = :trial AND objective = :number"
        connection.execute(
            text(f"UPDATE trial_values {values}"),
            [
                *({"value": value, "trial": first._trial_id, "number": number}
                  for number, value in enumerate(second.values)),
                {"value": 0.05, "trial": third._trial_id, "number": 0},
            ],
        )  # fmt: skip
    database.close()
    said = found(url)[f"results of {name}"].found
    assert said.startswith("2 trials have results that are not those of their recipes")
    assert "its choices are not what its recipe leaves of the base" in said
    assert f"trial {third.number}: its recipe was evaluated to " in said
    assert said.endswith("not 0.0500)")


@pytest.mark.parametrize("statements", [
    ["DELETE FROM ax_alembic_version"],
    ["DELETE FROM ax_alembic_version", "DROP VIEW ax_front", "DROP TABLE ax_exports"],
    ["CREATE TABLE old_ax_evaluations (model VARCHAR(64))"],
])  # fmt: skip
def test_a_change_of_the_tables_that_was_interrupted(url: str, statements: list[str]) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()
    schema = found(url)["schema"]
    assert schema.state == "warning"
    assert "interrupted; the next command completes it" in schema.found


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


@pytest.fixture
def recovered(searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of trained weights, two of which the database has."""
    folder = tmp_path / "weights"
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    database = open_database(searched)
    kept, file = weights_store(database.engine), tmp_path / "trained"
    for number in (3, 5):
        file.write_bytes(bytes([number]) * 1_700_000)
        made = {"study": STUDY, "trial": number}
        kept.save(f"{number}" * 64, recipe_of(PARAMS), file, made, 1.0)
    database.close()
    return folder


def test_recovered_weights(searched: str, recovered: Path) -> None:
    finding = found(searched)["recovered weights"]
    assert finding == Finding(
        "recovered weights", "ok", f"2 in {recovered}, 3.4 MB, open and match their checksums"
    )
    (first,) = recovered.glob("3*")
    (second,) = recovered.glob("5*")
    second.write_bytes(b"changed")
    before = {path: path.stat().st_mtime_ns for path in recovered.iterdir()}
    finding = found(searched)["recovered weights"]
    assert finding.state == "failure"
    assert finding.found == (
        f"those of trial 5 of study '{STUDY}' are missing from {recovered} or were changed there"
    )
    assert "`axsearch recover` again" in finding.advice
    assert WEIGHTS_VARIABLE in finding.advice
    first.unlink()
    assert f"trial 3 of study '{STUDY}'; trial 5 of" in found(searched)["recovered weights"].found
    assert {path: path.stat().st_mtime_ns for path in recovered.iterdir()} == {
        second: before[second]
    }


def test_recovered_weights_that_are_elsewhere(
    searched: str, recovered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE)
    finding = found(searched)["recovered weights"]
    assert finding.state == "failure"
    if searched.startswith("sqlite"):
        assert f"are missing from {recovered.parent / 'studies.db.weights'}" in finding.found
        assert not (recovered.parent / "studies.db.weights").exists()
    else:
        assert f"set {WEIGHTS_VARIABLE} to a folder" in finding.found


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
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
    engine.dispose()


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
