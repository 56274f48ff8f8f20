"""Databases of other programs are left as they are, and those that can only be read are read."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, inspect, text

from axsearch import Study, remeasure
from axsearch.cli import main
from axsearch.doctor import examine
from axsearch.errors import UsageError
from axsearch.export import export_model
from axsearch.running.engines import run_workers
from axsearch.running.holdout import evaluate_front
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.database import check_database, open_database, peek
from tests.common_fixtures import copied, new_database
from tests.docs.test_code_blocks import closing_databases
from tests.store.test_database import upgrade

# Another program's tables: a tracker's, which keeps its version where Optuna does, and a clinic's,
# which has one with a name of Optuna's.
TRACKER = (
    "CREATE TABLE experiments (id INTEGER)",
    "CREATE TABLE alembic_version (version_num TEXT)",
)
CLINIC = ("CREATE TABLE studies (id INTEGER, doctor TEXT)", "CREATE TABLE patients (id INTEGER)")


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def opens(storage: str) -> None:
    open_database(storage).close()


def creates(storage: str) -> None:
    open_database(storage, create=True).close()


@pytest.mark.parametrize("look", [opens, creates, check_database])
@pytest.mark.parametrize("tables", [TRACKER, CLINIC])
@pytest.mark.parametrize("journal", ["delete", "wal", "wal left"])
def test_a_file_of_another_program_stays_as_it_is(
    look: Callable[[str], None], tables: tuple[str, ...], journal: str, tmp_path: Path
) -> None:
    there, copy = tmp_path / "there", tmp_path / "copy"
    there.mkdir()
    with closing(sqlite3.connect(there / "its.db")) as connection:
        connection.execute(f"PRAGMA journal_mode={journal.split()[0]}")
        for table in tables:
            connection.execute(table)
        connection.commit()
        shutil.copytree(there, copy)  # with a journal, as after a crash
    folder = copy if journal == "wal left" else there
    before = everything(folder)
    assert ("its.db-wal" in before) == (journal == "wal left")
    with pytest.raises(UsageError, match="belongs to another program") as caught:
        look(f"sqlite:///{folder / 'its.db'}")
    assert ("experiments" if tables is TRACKER else "patients") in str(caught.value)
    after = everything(folder)
    assert after.keys() == before.keys()
    for name in before.keys() - {"its.db-shm"}:  # where readers are noted
        assert after[name] == before[name]


def test_the_doctor_says_whose_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "its.db")) as connection:
        connection.execute(TRACKER[0])
    *_, finding = examine(f"sqlite:///{tmp_path / 'its.db'}")
    assert (finding.name, finding.state, finding.advice) == ("database", "failure", "")
    assert "belongs to another program (its tables: experiments)" in finding.found


def test_a_server_s_database_of_another_program(new_url: str) -> None:
    engine = create_engine(new_url)
    with engine.begin() as connection:
        for number in range(7):
            connection.execute(text(f"CREATE TABLE app_{number} (id INTEGER)"))
    for look in (opens, creates, check_database):
        with pytest.raises(UsageError, match=r"app_0, app_1, app_2, app_3, app_4, …\)"):
            look(new_url)
    with engine.connect() as connection:
        assert len(inspect(connection).get_table_names()) == 7
    engine.dispose()


def test_tables_of_an_extension_are_nobody_s(postgresql_new: str) -> None:
    """PostGIS, for example, makes one in each database."""
    engine = create_engine(postgresql_new)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE spatial_ref_sys (id INTEGER)"))
        connection.execute(text("ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys"))
    engine.dispose()
    creates(postgresql_new)


@pytest.fixture
def postgresql_new(postgresql: str) -> str:
    return new_database(postgresql)


def test_studies_of_optuna_alone_are_joined(new_url: str) -> None:
    theirs = optuna.storages.RDBStorage(new_url)
    optuna.create_study(study_name="theirs", storage=theirs)
    theirs.remove_session()
    theirs.engine.dispose()
    check_database(new_url)
    database = open_database(new_url)
    assert optuna.get_all_study_names(database.storage) == ["theirs"]
    database.close()


def test_tables_beside_those_of_a_study_are_no_obstacle(url: str) -> None:
    database = open_database(url)
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER)"))
    database.close()
    opens(url)


def test_a_database_whose_making_was_interrupted_is_ours(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    opens(url)


# What can only be read


@contextmanager
def only_read(folder: Path) -> Iterator[None]:
    """Nothing in a folder can be written, nor anything be made there."""
    if os.geteuid():
        paths = [folder, *folder.iterdir()]
        modes = [path.stat().st_mode for path in paths]
        for path in paths:
            path.chmod(0o555 if path is folder else 0o444)
        yield
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)
        return
    mounted = subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("root can write everywhere, and nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def axsearch(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patched, closing_databases():
        patched.setattr(sys, "argv", ["axsearch", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, arguments


@pytest.fixture
def archive(opened_study: tuple[str, str], tmp_path: Path) -> Path:
    """A folder with a study in studies.db, as a copy of its database is kept."""
    folder = tmp_path / "archive"
    folder.mkdir()
    copied(opened_study[0], folder)
    return folder


LOOKS = (
    "front --study tiny", "front --study tiny --json", "front --study tiny --holdout",
    "pick --study tiny --max-drop 0.1", "explain --study tiny --trial 0",
    "report --study tiny --out {out}/report.html", "doctor",
)  # fmt: skip


def test_a_study_on_a_read_only_disk_is_looked_at(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, before = f"sqlite:///{archive / 'studies.db'}", everything(archive)
    axsearch("front", "--study", "tiny", "--json", "--storage", url)
    written = capfd.readouterr().out
    with only_read(archive):
        for command in LOOKS:
            axsearch(*command.format(out=tmp_path).split(), "--storage", url)
            said = capfd.readouterr()
            assert said.err == ""
            if "--json" in command:
                assert said.out == written
        assert "can only be read here" in said.out  # the doctor
        assert "0 trials are running" in said.out
    assert everything(archive) == before


def test_a_read_only_study_with_a_journal(archive: Path, tmp_path: Path) -> None:
    """What is not in the file itself yet is read too, or the remedy is said."""
    late = tmp_path / "late"
    url = f"sqlite:///{archive / 'studies.db'}"
    database = open_database(url)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE studies SET study_name = 'late'"))
        connection.execute(text("UPDATE ax_studies SET name = 'late'"))
    shutil.copytree(archive, late)
    database.close()
    assert {path.name for path in late.iterdir()} > {"studies.db", "studies.db-wal"}
    with only_read(late):
        study = Study.open(f"sqlite:///{late / 'studies.db'}", "late")
        assert len(study.front()) > 0
        study.database.close()
        (tmp_path / "link.db").symlink_to(late / "studies.db")  # the journal is not beside it
        with peek(f"sqlite:///{tmp_path / 'link.db'}") as engine, engine.connect() as connection:
            assert connection.scalar(text("SELECT name FROM ax_studies")) == "late"
    (archive / "studies.db-shm").touch()  # which alone says nothing
    with only_read(archive):
        Study.open(url, "late").database.close()
    (late / "studies.db-shm").unlink()
    with only_read(late), pytest.raises(UsageError, match="copy it with its -wal file to where"):
        Study.open(f"sqlite:///{late / 'studies.db'}", "late")


def test_what_would_be_written_is_refused_before_anything_is_done(
    archive: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{archive / 'studies.db'}"
    with only_read(archive):
        study = Study.open(url, "tiny")
        assert study.front()  # it is read
        number = study.front()[0].trial
        assert number is not None
        study.outcomes = lambda *_: {}  # type: ignore[method-assign]  # the holdout is not opened
        for write in (
            lambda: check_database(url),
            lambda: open_database(url, create=True),
            lambda: remeasure(study),
            lambda: evaluate_front(study),
            lambda: export_model(study, number, str(tmp_path / "out")),
            lambda: run_workers(WorkerPool(), WorkerRequest(url, "tiny")),
        ):
            with pytest.raises(UsageError, match="can only be read here; use one that can be"):
                write()
        study.database.close()


def test_a_uri_that_says_so_is_only_read(archive: Path) -> None:
    url = f"sqlite:///file:{archive / 'studies.db'}?mode=ro&uri=true"
    before = everything(archive)
    study = Study.open(url, "tiny")
    assert study.front()
    with pytest.raises(UsageError, match="can only be read here"):
        study.database.check_writable()
    study.database.close()
    assert everything(archive) == before


def test_a_pickled_storage_is_opened_in_another_process_as_it_was(archive: Path) -> None:
    database = open_database(f"sqlite:///file:{archive / 'studies.db'}?mode=ro&uri=true")
    pickled = pickle.dumps(database.storage)
    database.close()
    before = everything(archive)
    there = (
        "import pickle, sys; storage = pickle.load(sys.stdin.buffer)\n"
        "print(storage.get_all_studies()[0].study_name); storage.engine.dispose()"
    )
    done = subprocess.run(
        [sys.executable, "-c", there], input=pickled, capture_output=True, check=False
    )
    assert done.stdout == b"tiny\n", done.stderr.decode()
    assert everything(archive) == before


def test_older_tables_that_can_only_be_read_are_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old' / 'studies.db'}"
    (tmp_path / "old").mkdir()
    theirs = optuna.storages.RDBStorage(url)
    theirs.remove_session()
    theirs.engine.dispose()
    engine = create_engine(url)
    upgrade(engine, "0004")
    engine.dispose()
    with only_read(tmp_path / "old"):
        for look in (opens, creates, check_database):
            with pytest.raises(UsageError, match="tables of an older axsearch, and can only be"):
                look(url)
        schema = next(finding for finding in examine(url) if finding.name == "schema")
        assert (schema.state, schema.advice) == ("failure", "use a copy that can be written to")
    opens(url)


def test_a_user_of_postgresql_who_may_only_select(
    postgresql_url: str,
) -> None:
    database = open_database(postgresql_url)
    optuna.create_study(study_name="there", storage=database.storage)
    with database.engine.begin() as connection:
        connection.execute(text(
            "DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
        ))  # fmt: skip
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    database.close()
    url = postgresql_url.replace("//postgres:", "//reader:")
    reader = open_database(url)
    assert optuna.get_all_study_names(reader.storage) == ["there"]
    with pytest.raises(UsageError, match="can only be read here"):
        reader.check_writable()
    reader.close()
    with pytest.raises(UsageError, match="can only be read here"):
        check_database(url)
    found = {finding.name: finding for finding in examine(url)}
    assert found["commit"].state == "warning"
    assert "failure" not in {f.state for name, f in found.items() if name != "memory"}


def test_a_transaction_that_only_reads(postgresql_url: str) -> None:
    url = f"{postgresql_url}&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(UsageError, match="can only be read here"):
        check_database(url)
    opens(url)


def test_looking_at_a_database_leaves_its_folder_as_it_is(archive: Path) -> None:
    before = everything(archive)
    with peek(f"sqlite:///{archive / 'studies.db'}") as engine, engine.connect() as connection:
        assert "ax_trials" in inspect(connection).get_table_names()
    assert everything(archive) == before
