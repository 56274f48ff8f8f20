"""What is said where Ray's workers cannot start, or its cluster cannot be used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from axsearch.errors import AxsearchError, UsageError
from axsearch.running.engines.ray import OnRay, _run
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.outages import DatabaseAwayError

ray = pytest.importorskip("ray", reason="needs axsearch[ray]")

REQUEST = WorkerRequest("sqlite:///s.db", "s")
NOT_IMPORTED = """\
The remote function failed to import on the worker. This may be because needed library \
dependencies are not installed in the worker environment or cannot be found from sys.path [...]:

Traceback (most recent call last):
  File "function_manager.py", line 314, in fetch_and_register_remote_function
    function = pickle.loads(serialized_function)
ModuleNotFoundError: No module named 'axsearch'
"""


def of_task(error: Exception) -> Exception:
    """An error that a worker raises, as Ray hands it on."""
    task = ray.exceptions.RayTaskError("_work", "Traceback", error, proctitle="w", pid=1, ip="x")
    return task.as_instanceof_cause()


def failed(error: Exception) -> str:
    """What is said when the one worker's task ends with this error."""

    def get(_: Any) -> None:
        raise error

    cluster = SimpleNamespace(
        exceptions=ray.exceptions,
        remote=lambda **_: lambda function: SimpleNamespace(remote=lambda *_: "task"),
        wait=lambda tasks, **_: (tasks, []),
        get=get,
    )
    with pytest.raises(AxsearchError) as caught:
        _run(cluster, WorkerPool(1, "ray"), REQUEST, lambda: 0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            of_task(RuntimeError(NOT_IMPORTED)),
            "cannot start or run (ModuleNotFoundError: No module named 'axsearch'); each node "
            "needs the same Python packages",
        ),
        (of_task(MemoryError()), "cannot start or run (MemoryError)"),
        (
            ray.exceptions.WorkerCrashedError(),
            "died too often (WorkerCrashedError: The worker died unexpectedly while executing",
        ),
        (
            ray.exceptions.OutOfMemoryError("Task was killed: the node is low on memory.\nMore"),
            "died too often (OutOfMemoryError: Task was killed: the node is low on memory); run",
        ),
        (of_task(DatabaseAwayError("The database was away.")), "The database was away."),
    ],
)
def test_the_cause_of_a_worker_s_end_is_told(error: Exception, words: str) -> None:
    said = failed(error)
    assert words in said
    assert "\\n" not in said


VERSIONS = "Version mismatch: The cluster was started with:\n    Ray: 2.1\n    Python: 3.8\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(VERSIONS), "was started with: Ray: 2.1 Python: 3.8."),
        (ray.exceptions.RaySystemError("no raylet here"), "no raylet here."),
        (ray.exceptions.AuthenticationError("Invalid token"), r"copy the file ~/.ray/auth_token"),
    ],
)
def test_why_a_cluster_cannot_be_used_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UsageError) as caught:
        OnRay().check(WorkerPool(1, "ray", "auto"))
    assert words in str(caught.value)
