"""Storage URLs as people write them, and as they are shown."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from axsearch.errors import UsageError
from axsearch.store.database import check_database, open_database, peek
from axsearch.store.outages import database_error
from axsearch.store.urls import holds_secrets, read_url, shown_url, without_secrets


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("sqlite:///studies.db", "sqlite:///studies.db"),
        ("sqlite:////data/studies.db", "sqlite:////data/studies.db"),
        ("sqlite://studies.db", "sqlite:///studies.db"),
        ("sqlite://a/b/studies.db?timeout=5", "sqlite:///a/b/studies.db?timeout=5"),
        ("sqlite:studies.db", "sqlite:///studies.db"),
        ("sqlite+pysqlite://studies.db", "sqlite+pysqlite:///studies.db"),
        ("studies.db", "sqlite:///studies.db"),
        ("./a/studies.SQLite3", "sqlite:///./a/studies.SQLite3"),
        ("/data/studies.sqlite", "sqlite:////data/studies.sqlite"),
        ("/data/a b%20?.db", "sqlite:////data/a b%2520%3F.db"),
        (" studies.db\n", "sqlite:///studies.db"),
        ("postgres://db/studies", "postgresql+psycopg://db/studies"),
        ("postgres://ann:p%40ss@db:5/x", "postgresql+psycopg://ann:p%40ss@db:5/x"),
        ("postgres+psycopg://db/studies", "postgresql+psycopg://db/studies"),
        ("postgresql://db/studies?sslmode=require", None),
        ("PostgreSQL://db/studies", "postgresql+psycopg://db/studies"),
        ("mysql://db/studies", "mysql+pymysql://db/studies"),
        ("mariadb://db/studies", "mariadb+pymysql://db/studies"),
    ],
)
def test_what_is_read(given: str, read: str | None) -> None:
    expected = read or given.replace("postgresql:", "postgresql+psycopg:")
    assert read_url(given) == make_url(expected)


def test_a_file_that_is_there_needs_no_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not a database URL such as sqlite:///"):
        read_url("studies")
    (tmp_path / "studies").touch()
    assert read_url("studies").database == "studies"


def test_two_slashes_open_the_file_and_say_how_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for storage in ("sqlite://here.db", "here.db", "sqlite:///here.db", "sqlite://here.db"):
        open_database(storage, create=True).close()
    assert [path.name for path in tmp_path.glob("*.db")] == ["here.db"]
    assert capfd.readouterr().err == "sqlite://here.db is read as sqlite:///here.db.\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("sqlite:/data/studies.db", "sqlite:///studies.db, with three slashes, and with four"),
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite://:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite:///studies.db?timeout=soon", "option of the storage's URL cannot be read: could"),
        ("mysql://127.0.0.1:1/x?unknown=1", "pymysql does not know an option of the storage's URL"),
        ("", "not a database URL such as sqlite:///"),
        ("localhost/studies", "not a database URL such as sqlite:///"),
        ("postgresql://db:port/studies", "not a database URL such as sqlite:///"),
        ("redis://localhost", "not in redis"),
        ("oracle://localhost/x", "not in oracle"),
        ("postgresql+asyncpg://db/studies", "write postgresql://"),
        ("sqlite+aiosqlite:///studies.db", "write sqlite://"),
        ("postgresql+nosuch://db/studies", "no driver 'nosuch' for postgresql: write postgresql:"),
        ("mysql+mysqldb://db/studies", "`pip install mysqlclient`, or write mysql://"),
        ("postgresql+psycopg2://db/studies", "`pip install psycopg2-binary`, or write postgresql:"),
        ("postgresql+pg8000://db/studies", "`pip install pg8000`, or write postgresql://"),
    ],
)
def test_what_is_refused_names_the_right_form(given: str, words: str) -> None:
    package = given.partition("+")[2].partition(":")[0].replace("mysqldb", "MySQLdb")
    if "pip install" in words and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    for look in (open_database, check_database):
        with pytest.raises(UsageError) as caught:
            look(given)
        assert words in str(caught.value)


def test_a_driver_of_the_extras_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, module, extra in [
        ("postgresql://db/x", "psycopg", "postgresql"),
        ("mysql://db/x", "pymysql", "mysql"),
    ]:
        with monkeypatch.context() as patched:
            patched.setitem(__import__("sys").modules, module, None)
            with pytest.raises(UsageError, match=rf"pip install 'axsearch\[{extra}\]'` does it"):
                read_url(url)


def test_an_absolute_path_with_three_slashes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="four slashes") as caught:
        open_database(f"sqlite:///{str(tmp_path)[1:]}/studies.db", create=True)
    assert f"sqlite:///{tmp_path}/studies.db" in str(caught.value)


UNREACHABLE = "127.0.0.1:1/x?connect_timeout=2"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:hush-hush@{UNREACHABLE}",
        f"postgresql://hush-hush@{UNREACHABLE}",
        f"postgresql://hush-hush:@{UNREACHABLE}",
        f"postgresql://ann%3Ahush-hush@{UNREACHABLE}",
        f"postgresql://%68ush-hush:%68ush-hush@{UNREACHABLE}",
        f"postgresql://ann:top@hush-hush@{UNREACHABLE}",
        f"postgresql://hush-hush/more@{UNREACHABLE}",
        f"postgresql://ann@{UNREACHABLE}&password=hush-hush",
        f"postgresql://ann@{UNREACHABLE}&sslpassword=hush-hush",
        f"postgresql://ann@{UNREACHABLE}&unknown=hush-hush",
        f"postgresql://ann@{UNREACHABLE}&options=-c%20my.setting%3Dhush-hush",
        f"postgres://ann:hush-hush@{UNREACHABLE}",
        f"postgresql+psycopg2://ann:hush-hush@{UNREACHABLE}",
        f"postgresql+nosuch://ann:hush-hush@{UNREACHABLE}",
        f"oracle://ann:hush-hush@{UNREACHABLE}",
        f"mysql+mysqldb://ann:hush-hush@{UNREACHABLE}",
        f"mysql://hush-hush@{UNREACHABLE}",
        f"mysql://ann@{UNREACHABLE}&init_command=hush-hush",
        f"mysql://ann@{UNREACHABLE}&unknown=hush-hush",
        "postgresql://ann:hush-hush",
        "postgresql://ann:hush-hush@db:port/x",
        "ann:hush-hush@db/x",
        "ann:hush-hush@db/x.db",
        "sqlite://ann:hush-hush@db/x.db",
        "host=db user=ann password=hush-hush",
    ],
)
def test_no_secret_is_shown(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    for look in (open_database, check_database, _peek):
        with pytest.raises(UsageError) as caught:
            look(url)
        assert "hush" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "hush" not in "".join(capfd.readouterr())


def _peek(url: str) -> None:
    with peek(url) as engine:
        engine.connect()


def test_what_a_server_says_of_a_user_or_an_option_is_not_repeated(postgresql_url: str) -> None:
    token = postgresql_url.replace("//postgres:", "//tok3n-of-ann:")
    assert token != postgresql_url
    with pytest.raises(UsageError) as caught:
        open_database(token)
    assert '"***"' in str(caught.value)  # role "…" does not exist
    assert "tok3n" not in str(caught.value)
    later = OperationalError("", {}, sqlite3.OperationalError('no role "tok3n-of-ann" here'))
    later.__cause__ = later.orig
    assert "tok3n" not in str(database_error(later))


def test_what_is_shown() -> None:
    for given, shown in [
        ("sqlite:///a/studies.db", "sqlite:///a/studies.db"),
        ("postgresql://db:5/x?sslmode=require", "postgresql+psycopg://db:5/x?sslmode=require"),
        ("postgresql://ann@db/x", "postgresql+psycopg://***@db/x"),
        ("postgresql://ann:pw@[::1]/x?token=t&timeout=1", "postgresql+psycopg://***@[::1]/x?timeout=1"),
        ("postgresql://ann@/x?host=/run/pg", "postgresql+psycopg://***@/x?host=%2Frun%2Fpg"),
    ]:  # fmt: skip
        url = read_url(given)
        assert shown_url(url) == shown
        assert holds_secrets(url) == ("***" in shown)


def test_words_that_only_look_like_a_secret_stay() -> None:
    read_url("postgresql://server:onnection@db/x")
    said = 'connection to the server failed: password "onnection" of user "server"'
    assert without_secrets(said) == (
        'connection to the server failed: password "***" of user "***"'
    )
