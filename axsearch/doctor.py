"""What `axsearch doctor` looks at: this machine, the installation, a database and its studies."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from alembic.script import ScriptDirectory
from packaging.requirements import Requirement
from sqlalchemy import inspect, text

from axsearch.errors import AxsearchError, UsageError, cause
from axsearch.store.access import VERSION_TABLE, check_owner, may_write
from axsearch.store.artifacts import attached
from axsearch.store.database import (
    Database,
    grace_period,
    migrations,
    open_database,
    peek,
    schema_version,
)
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.sqlite import file_of
from axsearch.store.trained_weights import REMEDY, weights_kept, weights_named, weights_store
from axsearch.store.urls import shown_url
from axsearch.study.misplaced import misplaced
from axsearch.system.cores import THREAD_VARIABLES, processors
from axsearch.system.memory import available

LITTLE_MEMORY = 2 * 2**30
LITTLE_DISK = 2**30
AWAY = 5.0
"""Seconds that a clock may be away."""
SLOW = 0.05
"""Seconds of a commit, above which workers wait for the database more than they need."""

State = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do where it is not well.

    Attributes:
        name: of what was looked at.
        state: ``ok``; ``warning``, where a search works but not as it could; ``failure``.
        found: in words.
        advice: what to do; empty where all is well.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def examine(storage: str | None = None) -> Iterator[Finding]:
    """Look at this machine and, where a storage is given, at the database and its studies.

    Nothing is changed: a database of an older version stays as it is.
    """
    yield _look("versions", _versions)
    yield _look("threads", _threads)
    yield _look("memory", _memory)
    yield _look("machine", _machine)
    yield _look("kernels", _compiler)
    yield _look("temporary folder", _folder)
    yield _look("heartbeat", _grace)
    if storage is not None:
        yield from _database(storage)


def _look(name: str, check: Callable[..., Finding], *arguments: Any) -> Finding:
    """What a check finds; that it cannot look is a finding too, and the others go on."""
    try:
        return check(*arguments)
    except AxsearchError as error:
        return Finding(name, "failure", str(error))
    except Exception as error:
        found = f"cannot be looked at ({type(error).__name__}: {cause(error)})"
        return Finding(name, "failure", found, "AXSEARCH_DEBUG=1 and another command show more")


def _judged(name: str, found: str, well: bool, advice: str) -> Finding:
    """That all is well, or else a warning with what to do."""
    return Finding(name, "ok", found) if well else Finding(name, "warning", found, advice)


def _versions() -> Finding:
    wrong = []
    for line in requires("axsearch") or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            there = "not installed"
        if there == "not installed" or not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"{wanted.name} is {there}, needed is {wanted.specifier}")
    if wrong:
        return Finding(
            "versions", "failure", "; ".join(wrong), "pip install --upgrade axsearch mends it"
        )
    names = ("axsearch", "torch", "transformers", "optuna", "optuna-dashboard", "sqlalchemy")
    return Finding("versions", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _threads() -> Finding:
    import torch

    cores, threads = processors(), torch.get_num_threads()
    found = f"{threads} torch threads on {cores} processors"
    given = [name for name in THREAD_VARIABLES if os.environ.get(name)]
    if threads > cores:
        return Finding(
            "threads", "warning", found, f"set OMP_NUM_THREADS={cores}: threads stand in line"
        )
    if given and threads < cores:
        return Finding(
            "threads", "warning", found, f"{given[0]} is set; unset it to use all processors"
        )
    return Finding("threads", "ok", found)


def _memory() -> Finding:
    free = available()
    found = f"{free / 2**30:.1f} GiB free"
    advice = "a worker needs 1 to 2 GiB beside its model; run fewer --workers"
    return _judged("memory", found, free >= LITTLE_MEMORY, advice)


def _machine() -> Finding:
    from axsearch.evaluation.bfloat16 import is_fast
    from axsearch.system.machine import machine_name

    fast = is_fast("cpu")
    return Finding(
        "machine",
        "ok",
        f"{machine_name()}; accuracy is evaluated in {'bfloat16' if fast else 'float32'}",
    )


def _compiler() -> Finding:
    from axsearch.kernels.native import native_library

    if native_library() is not None:
        return Finding("kernels", "ok", "compiled")
    return Finding(
        "kernels",
        "warning",
        "top-k attention runs in plain PyTorch, several times slower",
        "install a C++ compiler (c++ or g++), or set CXX to one",
    )


def _folder() -> Finding:
    try:
        folder = Path(tempfile.gettempdir())  # the first that a file can be written to
    except FileNotFoundError:
        found, advice = "no folder can be written to", "set TMPDIR to one"
        return Finding("temporary folder", "failure", found, advice)
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / 2**30:.1f} GiB free"
    advice = "make room, or set TMPDIR to another"
    return _judged("temporary folder", found, free >= LITTLE_DISK, advice)


def _grace() -> Finding:
    found = f"a worker is thought to have died after {grace_period():.0f} s of silence"
    return Finding("heartbeat", "ok", found)


def _database(storage: str) -> Iterator[Finding]:
    try:
        with peek(storage) as engine:
            shown = shown_url(engine.url)
            with engine.connect() as connection:
                server = connection.dialect.server_version_info or ()
                check_owner(connection, shown)
                found, writable = schema_version(connection), may_write(connection)
                names = inspect(connection).get_table_names()
    except UsageError as error:
        advice = "see that it runs and is reachable" if error.__cause__ is not None else ""
        yield Finding("database", "failure", str(error), advice)
        return
    number = ".".join(map(str, server))
    yield Finding("database", "ok", f"{shown}, {engine.dialect.name} {number}")
    script = ScriptDirectory.from_config(migrations())
    known = {one.revision for one in script.walk_revisions()}
    ours = [name for name in names if name.startswith("ax_") and name != VERSION_TABLE]
    if (found is None and ours) or any(name.startswith("old_ax_") for name in names):
        yield Finding(
            "schema",
            "warning",
            "a change of the tables was interrupted; the next command completes it",
            "make a copy of the database first",
        )
        return
    if found is None:
        yield Finding("schema", "ok", "no tables of axsearch yet; a search makes them")
        return
    if found not in known:
        yield Finding("schema", "failure", f"version {found} is newer", "update axsearch")
        return
    if found != script.get_current_head():
        yield _older(found, writable)
        return
    yield Finding("schema", "ok", f"version {found}")
    try:
        database = open_database(storage)
    except UsageError as error:
        yield Finding("database", "failure", str(error))
        return
    with closing(database):
        yield _look("commit", _commit if writable else _unwritable, database)
        yield _look("clock", _clock, database)
        if database.engine.dialect.name == "sqlite":
            yield _look("disk", _disk, database)
        if weights_kept(database.engine)[0]:
            yield _look("recovered weights", _weights, database)
        for study in database.storage.get_all_studies():
            name = study.study_name
            given = database, name, id_of_study(study)
            yield _look(f"heartbeats of {name}", _heartbeat, *given)
            yield _look(f"artifacts of {name}", _artifacts, *given)
            yield _look(f"results of {name}", _results, *given)


def _older(version: str, writable: bool) -> Finding:
    if writable:
        found = f"version {version} is older; the next command brings it up to date"
        return Finding("schema", "warning", found, "make a copy of the database first")
    found = f"version {version} is older, and the database can only be read here"
    return Finding("schema", "failure", found, "use a copy that can be written to")


def _unwritable(_: Database) -> Finding:
    found = "the database can only be read here"
    return Finding("commit", "warning", found, "searches and exports need one they can write to")


def _commit(database: Database) -> Finding:
    """A write that leaves all as it is, with its way to the disk."""
    change, took = text(f"UPDATE {VERSION_TABLE} SET version_num = :number"), []
    for _ in range(3):
        began = time.perf_counter()
        with database.engine.begin() as connection:
            now = schema_version(connection)
            for number in ("", now):  # what is set to what it was is not written by all databases
                connection.execute(change, {"number": number})
        took.append(time.perf_counter() - began)
    seconds = sorted(took)[1]
    found = f"a commit takes {seconds * 1e3:.1f} ms"
    advice = "a trial has four: bring the database nearer"
    return _judged("commit", found, seconds <= SLOW, advice)


def _clock(database: Database) -> Finding:
    dialect = database.engine.dialect.name
    if dialect == "sqlite":
        return Finding("clock", "ok", "the database's is this machine's")
    epoch = "extract(epoch from now())" if dialect == "postgresql" else "unix_timestamp()"
    with database.engine.connect() as connection:
        now = connection.scalar(text(f"SELECT {epoch}"))
    away = abs(float(now) - time.time())
    if away > AWAY:
        return Finding(
            "clock",
            "warning",
            f"the database's clock is {away:.0f} s away",
            "heartbeats go by the database's clock; the times of trials by this machine's: set it",
        )
    return Finding("clock", "ok", f"within {AWAY:.0f} s of the database's")


def _disk(database: Database) -> Finding:
    folder = file_of(database.engine.url).resolve().parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free beside the database"
    advice = "make room: a full disk ends a search"
    return _judged("disk", found, free >= LITTLE_DISK, advice)


def _weights(database: Database) -> Finding:
    name, (count, size) = "recovered weights", weights_kept(database.engine)
    kept = weights_store(database.engine)
    broken = weights_named(database.engine, kept.check())
    if broken:
        found = f"those of {'; '.join(broken)} are missing from {kept.place} or were changed there"
        return Finding(name, "failure", found, REMEDY)
    found = f"{count} in {kept.place}, {size / 1e6:.1f} MB, open and match their checksums"
    return Finding(name, "ok", found)


def _heartbeat(database: Database, study: str, study_id: int) -> Finding:
    name = f"heartbeats of {study}"
    running, grace = database.storage.others(study_id), database.storage.grace
    silent = [trial.number for trial in running if trial.silent > grace]
    if silent:
        return Finding(
            name,
            "warning",
            f"trials {', '.join(map(str, silent))} have been silent for over {grace:.0f} s",
            "their workers died; `axsearch worker` or the same `axsearch search` tries them again",
        )
    early = [trial for trial in running if trial.silent < -AWAY]
    if early:
        return Finding(
            name,
            "warning",
            f"heartbeats of trials {', '.join(str(trial.number) for trial in early)} are up to "
            f"{-min(trial.silent for trial in early):.0f} s ahead of the database's clock",
            "the clock was set back; a worker that dies is noticed all the same, by another that "
            "sees its heartbeat stand still",
        )
    return Finding(name, "ok", f"{len(running)} trials are running")


def _artifacts(database: Database, study: str, study_id: int) -> Finding:
    name = f"artifacts of {study}"
    files = list(attached(database.engine, study_id))
    broken = [f"{file.name} of trial {file.trial}" for file in files if not file.whole]
    if broken:
        return Finding(
            name,
            "failure",
            f"{'; '.join(broken)} are missing or were changed",
            "restore the database from a copy; recipes and numbers are kept apart from them",
        )
    return Finding(name, "ok", f"{len(files)} open and match their checksums")


def _results(database: Database, study: str, study_id: int) -> Finding:
    name = f"results of {study}"
    wrong = misplaced(database, study, study_id)
    if wrong:
        reasons = "; ".join(f"trial {number}: {why}" for number, why in sorted(wrong.items()))
        return Finding(
            name,
            "failure",
            f"{len(wrong)} trials have results that are not those of their recipes ({reasons})",
            "choose no model of this study: run the same search under another --study, which "
            "evaluates no model a second time",
        )
    return Finding(name, "ok", "each is of the recipe that it stands with")
