"""Several workers as a user starts them, with real models, killed and stopped for real."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from axsearch import Study, search
from axsearch.cli import main
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task
from axsearch.running.engines import be_worker, check_pool
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.space.recipe import Recipe
from axsearch.store.artifacts import attached
from axsearch.store.database import open_database
from axsearch.store.studies import ask_for
from axsearch.study.fronts import front_of
from axsearch.study.spec import StoredSettings
from axsearch.testing.processes import Process
from tests.common_fixtures import add_calibrations

Start = Callable[..., Process]
TWO = ("--workers", "2")
UNTIMED = ("--objectives", "accuracy,size")
TRIALS = "40"  # of a tiny model: enough to be in the midst of them

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two workers need two processors"
)


@pytest.fixture
def start(base_dir: Path, data_dir: Path, calibrated: str, url: str) -> Start:
    """Start a search of this database, in which calibrations are, or another command."""
    add_calibrations(calibrated, url)

    def call(*options: str, command: str = "search", model: Path = base_dir) -> Process:
        given = ["--storage", url, "--study", "many"]
        if command == "search":
            given += ["--model", str(model), "--data", str(data_dir), "--batch-size", "4"]
            given += ["--sampler", "random", "--no-staged"]
            if "--compensation" not in options:
                given += ["--compensation", "least_squares"]  # as the calibrations are
        return Process(
            "-m", "axsearch", command, *given, *options,
            env={**os.environ, "AXSEARCH_GRACE_PERIOD": "4"},
            new_session=True, spawns=True,
        )  # fmt: skip

    return call


def until(process: Process, pattern: str) -> list[str]:
    """Read what it says until a line begins like the pattern."""
    seen = []
    for line in process.stderr:
        seen.append(line.strip())
        if re.match(pattern, line):
            return seen
    raise AssertionError(seen)


def check(url: str, wanted: int) -> Study:
    """The study has what was wanted, nothing runs, and all that is complete is whole."""
    study = Study.open(url, "many")
    trials = study.optuna.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    assert TrialState.RUNNING not in states
    done = {t.user_attrs["recipe"] for t in trials if t.state == TrialState.COMPLETE}
    stopped = {t.user_attrs["recipe"] for t in trials if t.state == TrialState.PRUNED}
    assert len(done | stopped) == wanted == study.database.storage.finished(study.id)
    files = list(attached(study.database.engine, study.id))
    assert all(file.whole for file in files)
    assert {m.trial for m in study.front()} <= {file.trial for file in files}
    with study.database.engine.connect() as connection:
        front = connection.execute(text("SELECT trial, recipe FROM ax_front")).all()
    # The view's models are compared as they were in their trials.
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    tried = front_of(study.spec, study.baseline, study.measured(complete, polished=False))
    assert {row.trial for row in front} >= {m.trial for m in tried}
    assert {row.recipe for row in front} == {Recipe.from_dict(m.recipe).hash for m in tried}
    return study


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # of SQLite see tests/faults
def test_two_workers_of_which_one_is_killed(start: Start, url: str, more_data_dir: Path) -> None:
    """What was lost is tried again, and in the end each model of the front is timed once, and
    polished by the process that started the workers.
    """
    more = ("--compensation", "sequential", "--data", str(more_data_dir))
    process = start("--trials", TRIALS, *TWO, *more)
    until(process, rf"trial \d+/{TRIALS} ")
    children = process.spawned
    assert len(children) == 2
    children[0].kill()
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert "killed by SIGKILL (out of memory, perhaps); it is started again in 1 s." in said
    assert "many: front of" in out
    study = check(url, int(TRIALS))
    changed = [m.recipe for m in study.front() if m.trial != study.baseline.trial]
    hashes = {Recipe.from_dict(recipe).hash for recipe in changed}
    assert hashes == set(study.polished(hashes))
    assert re.search(r"^\d+ models? of the front polished in \d+ s\.$", said, re.MULTILINE)
    with study.database.engine.connect() as connection:
        workers = connection.execute(
            text("SELECT count(DISTINCT worker) FROM ax_trials WHERE finished")
        ).scalar()
        timed = connection.execute(
            text("SELECT count(*), count(DISTINCT recipe) FROM ax_latencies WHERE entry IS NULL")
        ).one()
    assert workers >= 2  # the base's, and at least one of the two
    assert all(member.latency_measured for member in study.front())
    assert timed[0] == timed[1]
    study.database.close()


# Of SIGTERM see tests/running/engines/test_local.py and tests/faults/test_kills.py.
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_stopped_search_goes_on_with_a_worker(
    start: Start, url: str, base_dir: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "base"
    moved.symlink_to(base_dir)
    process = start("--trials", TRIALS, *TWO, *UNTIMED, model=moved)
    until(process, rf"trial \d+/{TRIALS} ")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all of its group
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        "axsearch: stopped; finished trials are kept, and the same command continues from there."
    )
    study = Study.open(url, "many")
    trials = study.optuna.get_trials(deepcopy=False)
    assert all(trial.state != TrialState.RUNNING for trial in trials)
    with study.database.engine.connect() as connection:
        lost = connection.execute(text("SELECT count(*) FROM ax_trials WHERE attempt > 1")).scalar()
    assert lost == 0  # they were given back, which is no attempt
    before = [m.trial for m in study.measurements]
    study.database.close()
    # Another machine, on which the model lies elsewhere.
    moved.unlink()
    worker = start("--model", str(base_dir), command="worker")
    _, said = worker.communicate()
    assert worker.returncode == 0, said
    study = check(url, int(TRIALS))
    assert {m.trial for m in study.measurements} >= set(before)
    study.database.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_weights_that_are_cut_off_while_a_worker_runs(
    start: Start, url: str, base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """What has them in memory goes on; what is started in its place says what is wrong."""
    base = tmp_path / "base"
    shutil.copytree(base_dir, base)
    given = {"storage": url, "study": "many", "trials": 1, "objectives": ("accuracy", "size")}
    made = search(
        str(base), str(data_dir), sampler="random", staged=False, compensation="least_squares",
        **given
    )  # fmt: skip
    spec, (_, settings) = made.spec, made.asked
    ask_for(
        made.database.engine,
        "many",
        int(TRIALS),
        StoredSettings.of(settings).model_dump(mode="json"),
    )
    made.database.close()
    process = start("--cpus-per-worker", "1", command="worker")
    until(process, rf"trial \d+/{TRIALS} ")
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    until(process, rf"trial \d+/{TRIALS} ")
    for child in process.spawned:
        child.kill()
    _, said = process.communicate()
    assert process.returncode == 2, said
    assert str(base) in said.splitlines()[-1]
    assert "Traceback" not in said
    study = Study.open(url, "many")
    before = {m.trial: m.accuracy for m in study.measurements}
    assert len(before) > 2
    study.database.close()
    weights.write_bytes(whole)
    process = start(command="worker")
    _, said = process.communicate()
    assert process.returncode == 0, said
    study = check(url, int(TRIALS))
    assert before.items() <= {m.trial: m.accuracy for m in study.measurements}.items()
    # Evaluated once more, each model of the front gives what is stored.
    task = load_task(spec)
    other = open_database(f"sqlite:///{tmp_path / 'other.db'}", create=True)
    evaluator = Evaluator(task, other.engine, None, spec.device, spec.dtype)
    for member in study.front():
        found = evaluator.accuracy(Recipe.from_dict(member.recipe), task.search)
        assert found.value == member.accuracy
    other.close()
    study.database.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_a_worker_cannot_do_is_said_at_once(
    base_dir: Path,
    data_dir: Path,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a worker was started")

    place = ["--storage", url, "--study", "many"]
    given = {"storage": url, "study": "many", "trials": 1, "objectives": ("accuracy", "size")}
    given |= {"sampler": "random", "compensation": "least_squares"}
    search(str(base_dir), str(data_dir), **given).database.close()
    monkeypatch.setattr("axsearch.running.engines.local._Supervised._start", never)
    for options, word in [
        (["worker", *place, "--workers", "99"], "processors of this machine"),
        (["worker", *place, "--cpus-per-worker", "0"], "--cpus-per-worker must be at least 1"),
        (
            ["search", *place, "--model", str(base_dir), "--data", str(data_dir), "--trials", "2",
             "--engine", "slurm"],
            "--engine must be one of",
        ),
    ]:  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["axsearch", *options])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert word in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UsageError, match=str(tmp_path)):  # in the worker's own process
        be_worker(WorkerRequest(url, "many", str(tmp_path), None, None), 1)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs axsearch[ray]")
def test_workers_on_ray(start: Start, url: str) -> None:
    process = start("--trials", "30", *TWO, *UNTIMED, "--engine", "ray")
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert "many: front of" in out
    check(url, 30).database.close()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs axsearch[ray]")
def test_a_place_on_ray_that_is_not_there() -> None:
    for place, word in [
        (WorkerPool(1, "ray", "127.0.0.1:9"), "Nothing answers at the Ray address 127.0.0.1:9"),
        (WorkerPool(1, "ray", cpus=999), "No node of the Ray cluster has 999 processors"),
        (
            WorkerPool(1, "ray", "local", gpus=999),
            "No node of the Ray cluster has 1 processors and 999",
        ),
    ]:
        with pytest.raises(UsageError, match=word):
            check_pool(place)
