"""Workers that are killed, stopped or starved: the same command goes on, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from axsearch.space.recipe import Recipe
from axsearch.store.attributes import GIVEN_UP_ATTR, INTERRUPTED_ATTR
from axsearch.store.claims import Claim
from axsearch.store.database import open_database
from axsearch.store.work_storage import WorkStorage
from axsearch.testing.processes import Process
from tests.faults.cheap import Cheap, a_loop
from tests.faults.definition import check_nothing_lost, complete, trials_of


def _no() -> None:
    return


CHEAP = str(Path(__file__).with_name("cheap.py"))
KILLED = -signal.SIGKILL


def start(url: str, *options: object) -> Process:
    return Process(CHEAP, url, *options, env={**os.environ, "AXSEARCH_GRACE_PERIOD": "2"})


def run(url: str, *options: object) -> int | None:
    process = start(url, *options)
    process.communicate(timeout=60)
    return process.returncode


def until(process: Process, line: str) -> None:
    """Read what a worker prints until a line has come."""
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"{line!r} did not come")


@pytest.mark.parametrize("fault", ["kill within", "kill measured", "kill artifact"])
def test_a_killed_worker_loses_no_more_than_the_time(url: str, fault: str) -> None:
    assert run(url, "--fault", fault) == KILLED
    dead = trials_of(url)
    assert [t.state for t in dead].count(TrialState.COMPLETE) == 2
    assert [t.state for t in dead].count(TrialState.RUNNING) == 1
    began = time.monotonic()
    assert run(url) == 0
    # The dead one ran here: it need not be waited for.
    assert time.monotonic() - began < 20
    trials = check_nothing_lost(url, 8, complete(dead))
    lost = [t for t in trials if INTERRUPTED_ATTR in t.user_attrs]
    assert [t.number for t in lost] == [2]
    again = [t for t in trials if t.user_attrs.get("retry_of") == 2]
    assert len(again) == 1
    assert again[0].state == TrialState.COMPLETE
    assert again[0].params == dead[2].params


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_worker_and_its_trial_waits(
    url: str, kind: signal.Signals, times: int
) -> None:
    process = start(url, "--fault", "hang", "--hang", 60)
    until(process, "hangs")
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(kind)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert time.monotonic() - began < 50  # it did not wait for the trial to end
    stopped = trials_of(url)
    if times == 1:  # with a second signal there may have been no time to give it back
        assert [t.state for t in stopped] == [
            TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING,
        ]  # fmt: skip
    assert run(url, "--wanted", 3) == 0
    check_nothing_lost(url, 3, complete(stopped))


def test_a_second_signal_within_a_command_to_the_database_is_still_a_signal(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that is stopped there has an error of its own, in place of KeyboardInterrupt."""

    def interrupted(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise OperationalError("rollback", {}, Exception("command in progress")) from None

    monkeypatch.setattr(WorkStorage, "give_back", interrupted)
    database = open_database(url)
    try:
        loop = a_loop(database, Cheap(0.0, lambda: os.kill(os.getpid(), signal.SIGINT), _no), 3)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    finally:
        database.close()


@pytest.mark.parametrize("retried", [False, True])
def test_a_signal_within_a_command_gives_the_trial_back(
    url: str, monkeypatch: pytest.MonkeyPatch, retried: bool
) -> None:
    """The same within a claim, whether the driver's own error is raised or retried."""
    claim = WorkStorage.claim

    def interrupted(self: WorkStorage, trial_id: int, recipe: Recipe) -> Claim:
        found = claim(self, trial_id, recipe)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            if not retried:
                raise OperationalError("claim", {}, Exception("interrupted")) from None
        return found

    def evaluated() -> None:
        raise AssertionError("a trial went on after a signal")

    monkeypatch.setattr(WorkStorage, "claim", interrupted)
    database = open_database(url)
    try:
        with pytest.raises(KeyboardInterrupt):
            a_loop(database, Cheap(0.0, evaluated, _no), 3).run()
    finally:
        database.close()
    # Given back: its copy waits to be tried.
    assert [t.state for t in trials_of(url)] == [TrialState.FAIL, TrialState.WAITING]


def test_a_worker_that_was_frozen_finds_its_trial_gone_and_goes_on(url: str) -> None:
    frozen = start(url, "--fault", "hang", "--hang", 1, "--wanted", 6)
    until(frozen, "hangs")
    frozen.send_signal(signal.SIGSTOP)
    other = start(url, "--seconds", 0.1, "--wanted", 5)
    other.communicate(timeout=60)  # waits for the grace period, then tries the recipe itself
    assert other.returncode == 0
    before = complete(trials_of(url))
    assert len(before) == 5
    frozen.send_signal(signal.SIGCONT)
    _, said = frozen.communicate(timeout=60)
    assert frozen.returncode == 0, said
    assert "was given to another worker" in said
    check_nothing_lost(url, 6, before)


@pytest.fixture
def little_memory() -> Path:
    """A control group of 400 MB, for the kernel to kill in."""
    group = Path("/sys/fs/cgroup/memory") / f"axsearch-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("400000000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


@pytest.mark.parametrize("fault", ["memory", "always memory"])
def test_a_worker_that_the_kernel_killed_for_its_memory(
    url: str, fault: str, little_memory: Path
) -> None:
    run(url, "--wanted", 1)

    for _ in range(1 if fault == "memory" else 4):
        process = start(
            url, "--fault", fault, "--wanted", 5, "--group", little_memory / "cgroup.procs"
        )
        process.communicate(timeout=60)
        assert process.returncode == KILLED
    last = start(url, "--wanted", 5)
    _, said = last.communicate(timeout=60)
    assert last.returncode == 0
    trials = check_nothing_lost(url, 5)
    given_up = [t for t in trials if GIVEN_UP_ATTR in t.user_attrs]
    assert len(given_up) == (fault == "always memory")  # after the first and three more
    assert ("its model is given up" in " ".join(said.split())) == (fault == "always memory")
