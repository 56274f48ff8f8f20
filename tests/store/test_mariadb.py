"""The store on MariaDB, where the machine has a server; its quirks are MySQL's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.doctor import examine
from axsearch.errors import UsageError
from axsearch.space.recipe import Recipe
from axsearch.statistics.outcome import Outcome
from axsearch.store import connections, heartbeats, outages
from axsearch.store import queries as q
from axsearch.store.claims import Assignment
from axsearch.store.database import Database, open_database
from axsearch.store.limits import Limits
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.outages import database_error
from axsearch.store.trained_weights import weights_store
from axsearch.store.weights_files import WEIGHTS_VARIABLE
from axsearch.testing import processes
from tests.faults import cheap
from tests.faults.definition import check_nothing_lost, complete, trials_of
from tests.store import test_database as migrated
from tests.store import test_recovered_trials, test_trained_weights
from tests.store.test_heartbeats import BERLIN, CHANGES, check_heartbeats_of_version_0005

CHEAP = str(Path(cheap.__file__))
SECONDS = 60.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the server's user may enter, outside of pytest's, which is closed to it."""
    with tempfile.TemporaryDirectory(prefix="axsearch-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The URL of a server of its own, on a socket."""
    if shutil.which("mariadbd") is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("no MariaDB server is installed here (mariadb-server)")
    pytest.importorskip("pymysql", reason="needs axsearch[mysql]")
    user = ["--user=mysql"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "mysql")
    socket, data = folder / "socket", folder / "data"
    own = {**os.environ, "TMPDIR": str(folder)}  # the tests' own is closed to the server's user
    make = ["mariadb-install-db", *user, f"--datadir={data}"]
    made = subprocess.run(
        [*make, "--auth-root-authentication-method=normal"],
        capture_output=True, text=True, check=False, env=own,
    )  # fmt: skip
    if made.returncode:
        said = (made.stdout + made.stderr).strip().splitlines() or ["no reason given"]
        pytest.skip(f"MariaDB's tables cannot be made here: {said[-1]}")
    run = ["mariadbd", "--no-defaults", *user, f"--datadir={data}", f"--socket={socket}"]
    with subprocess.Popen(
        [*run, "--skip-networking", f"--pid-file={folder / 'pid'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**own, "TZ": BERLIN},
    ) as process:
        deadline = time.monotonic() + SECONDS
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"mysql+pymysql://root@localhost/{{name}}?unix_socket={socket}"
        process.terminate()


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    name = f"case_{abs(hash(request.node.name))}"  # in those named test_ everybody may write
    engine = create_engine(server.format(name="mysql"))
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.format(name=name)


def run(url: str, *options: str) -> int:
    return processes.run(CHEAP, url, *options).returncode


def test_a_recipe_and_an_outcome_larger_than_64_kilobytes(url: str) -> None:
    database = open_database(url, create=True)
    layers = {
        SiteId(layer, "ffn"): {"ffn": Kept(of=4096, kept=tuple(range(0, 4096, 2 + layer % 3)))}
        for layer in range(48)
    }
    recipe = Recipe.of(layers)
    draw = np.random.default_rng(0)
    outcome = Outcome("of scores", draw.random(40_000))
    losses = draw.random(40_000).astype(np.float32)
    key = q.EvaluationKey("m" * 64, "c" * 64, "s" * 64, "float32", "accuracy")
    result = q.Evaluation(0.5, 0.4, 0.6, outcome, losses)
    q.save_evaluation(database.engine, key, recipe, "search", result)
    loaded = q.load_evaluation(database.engine, key, recipe.hash)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.outcome.values, outcome.values)
    big = Recipe.of({}).to_json() + " " * 200_000
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO ax_recipes (hash, json) VALUES ('large', :json)"), {"json": big}
        )
        stored = connection.execute(
            text("SELECT LENGTH(json) FROM ax_recipes WHERE hash = 'large'")
        ).scalar()
    assert stored == len(big)
    assert q.load_recipes(database.engine, [recipe.hash])[recipe.hash] == recipe
    database.close()


@pytest.mark.parametrize("open_it", [migrated.opened, migrated.opened_after_kills])
@pytest.mark.parametrize("check", migrated.EARLIER)
def test_databases_of_earlier_versions_are_brought_up_to_date(
    url: str,
    check: Callable[[str, Callable[[str], Database]], None],
    open_it: Callable[[str], Database],
) -> None:
    check(url, open_it)


def test_migrations_give_the_tables_that_the_models_say(url: str) -> None:
    migrated.test_migrations_give_the_tables_that_the_models_say(url)


def test_tables_are_made_after_kills(url: str) -> None:
    migrated.check_tables_after_kills(url)


def test_heartbeats_of_the_version_before(url: str) -> None:
    check_heartbeats_of_version_0005(url)


@pytest.mark.parametrize("change", CHANGES)
def test_clocks_that_change_for_summer_time(url: str, change: str) -> None:
    begun, now, seconds = CHANGES[change]
    database = open_database(url, create=True)
    study = cheap.a_study(database)
    database.storage.work_on(Assignment(id_of_study(study), 9, "elsewhere"))
    trial = study.ask()
    database.storage.flush()

    def set_now(session: Session, moment: str) -> None:
        at = datetime.fromisoformat(moment).timestamp()
        session.execute(text(f"SET timestamp = {at:.0f}"))

    with database.storage.transaction() as session:
        set_now(session, begun)
        heartbeats.beat(session, trial._trial_id, "elsewhere", None)
        session.execute(text("SET timestamp = DEFAULT"))
    with database.storage.transaction() as session:
        set_now(session, now)
        (found,) = heartbeats.signs_of_life(session, id_of_study(study))
        session.execute(text("SET timestamp = DEFAULT"))
    assert found.silent == seconds
    database.close()


def test_the_server_ends_what_takes_too_long(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A statement, a lock that is waited for, and the session of a worker that froze."""
    for given in (url, f"{url}&init_command=SET+SESSION+innodb_lock_wait_timeout=3"):
        database = open_database(given, create=True)
        with database.engine.connect() as connection:
            found = connection.execute(text(
                "SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@max_statement_time,"
                " @@idle_transaction_timeout"
            )).one()  # fmt: skip
        database.close()
        assert tuple(found) == (3 if given != url else 10, 10, 45.0, 60)
    monkeypatch.setattr(connections, "USUAL", Limits(lock=1, statement=2, idle=3))
    monkeypatch.setattr(outages, "LONGEST", 20.0)
    monkeypatch.setattr(outages, "SAY_AFTER", 0.5)
    databases = [open_database(url) for _ in range(2)]
    with databases[0].engine.connect() as connection:
        with pytest.raises(OperationalError, match="max_statement_time") as caught:
            connection.execute(text("SELECT SLEEP(10)"))
        assert outages.transient(caught.value)
    cheap.a_study(databases[1])
    frozen = databases[0].engine.connect()
    frozen.execute(text("SELECT * FROM studies FOR UPDATE"))
    nothing = cheap.Cheap(0.0, lambda: None, lambda: None)
    cheap.a_loop(databases[1], nothing, 4).run()
    assert "Lock wait timeout exceeded" in capfd.readouterr().err
    with pytest.raises(OperationalError) as caught:
        frozen.execute(text("SELECT 1"))
    assert outages.transient(caught.value)
    frozen.close()
    for database in databases:
        database.close()
    assert len(complete(trials_of(url))) == 4


def test_another_program_s_tables_are_left_alone_and_readers_are_told(url: str) -> None:
    open_database(url, create=True).close()
    engine = create_engine(url)
    name = engine.url.database
    with engine.connect() as connection:
        connection.execute(text("CREATE OR REPLACE USER reader@localhost"))
        connection.execute(text(f"GRANT SELECT ON {name}.* TO reader@localhost"))
        connection.execute(text(f"CREATE OR REPLACE DATABASE {name}_app"))
        connection.execute(text(f"CREATE TABLE {name}_app.users (id INTEGER)"))
    engine.dispose()
    with pytest.raises(UsageError, match="belongs to another program"):
        open_database(url.replace(f"/{name}?", f"/{name}_app?"))
    reader = open_database(url.replace("//root@", "//reader@"))
    with pytest.raises(StorageInternalError) as caught:
        reader.storage.create_new_study([], "new")
    assert "can only be read here" in str(database_error(caught.value))
    reader.close()


def test_a_killed_worker_loses_nothing(url: str) -> None:
    assert run(url, "--fault", "kill measured") < 0
    before = complete(trials_of(url))
    assert run(url) == 0
    check_nothing_lost(url, 8, before)


def test_processes_share_a_study_and_its_front_is_found(url: str) -> None:
    open_database(url, create=True).close()
    running = [processes.Process(CHEAP, url, "--wanted", "40") for _ in range(4)]
    told = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 4, told
    trials = check_nothing_lost(url, 40)
    values = {t.number: t.values for t in trials if t.values}
    database = open_database(url)
    with database.engine.connect() as connection:
        front = set(connection.execute(text("SELECT trial FROM ax_front")).scalars())
    database.close()
    assert front == {
        a
        for a, (high, size) in values.items()
        if not any(h >= high and s <= size and (h, s) != (high, size) for h, s in values.values())
    }


def test_recovered_models_and_their_weights(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    database = open_database(url, create=True)
    test_recovered_trials.search(database, 4)
    running = [processes.Process("-c", test_recovered_trials.ADD, url) for _ in range(4)]
    told = sorted(process.communicate()[0] for process in running)
    assert told == ["4 False\n"] * 3 + ["4 True\n"]
    assert database.storage.finished(1) == 4
    kept = weights_store(database.engine)
    for _ in range(2):
        file = test_trained_weights.weights(tmp_path)
        kept.save("a" * 64, test_trained_weights.small(), file, test_trained_weights.MADE, 1.0)
    assert kept.made("a" * 64) == test_trained_weights.MADE
    assert kept.check() == []
    database.close()
    assert {finding.name: finding.state for finding in examine(url)}["recovered weights"] == "ok"


def test_the_doctor_finds_it_well(url: str) -> None:
    open_database(url, create=True).close()
    found = {finding.name: finding.state for finding in examine(url)}
    assert {found[name] for name in ("database", "schema", "clock")} == {"ok"}
