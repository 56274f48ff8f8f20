"""Workers as tasks of a Ray cluster, which places them and restarts those that die."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from axsearch.errors import AxsearchError, UsageError, cause
from axsearch.running.engines import Engine, be_worker
from axsearch.running.request import WorkerPool, WorkerRequest
from axsearch.store.outages import DatabaseAwayError
from axsearch.system.cores import processors

WORKER_RETRIES = 6
"""How often Ray restarts a worker whose process or node died."""

TICK = 1.0

CONNECTING = 10.0
"""Seconds in which a cluster must answer."""


class OnRay(Engine):
    """Runs workers on a Ray cluster: the one at ``WorkerPool.address``, or else one made here.

    Storage, model and data must be reachable from the nodes under the names that the study has.
    """

    name: ClassVar[str] = "ray"

    def check(self, pool: WorkerPool) -> None:
        """Ray must be installed, the cluster reachable, and one of its nodes large enough."""
        if importlib.util.find_spec("ray") is None:
            raise UsageError("""`engine="ray"` needs Ray: pip install 'axsearch[ray]'.""")
        if pool.address is None:  # it is started on this machine when it is needed
            _check_nodes([{"CPU": processors(), "GPU": pool.gpus}], pool)
            return
        with _cluster(pool) as ray:
            _check_nodes(_nodes(ray), pool)

    def run(self, pool: WorkerPool, request: WorkerRequest, poll: Callable[[], int]) -> None:
        """See :class:`axsearch.running.engines.Engine`."""
        with _cluster(pool) as ray:
            _check_nodes(_nodes(ray), pool)
            _run(ray, pool, request, poll)


def _run(ray: Any, pool: WorkerPool, request: WorkerRequest, poll: Callable[[], int]) -> None:
    threads = pool.cpus or 1
    task = ray.remote(
        num_cpus=threads,
        num_gpus=pool.gpus,
        max_retries=WORKER_RETRIES,
        retry_exceptions=[DatabaseAwayError],
    )(_work)
    left = [task.remote(request, threads) for _ in range(pool.workers)]
    try:
        while left:
            done, left = ray.wait(left, timeout=TICK)
            for status, words in ray.get(done):
                if status:
                    raise (UsageError if status == 2 else AxsearchError)(words)
            poll()
    except ray.exceptions.RayError as error:
        raise AxsearchError(_failure(error)) from None
    finally:
        for one in left:
            ray.cancel(one)  # like Ctrl-C in the worker: its trial is given back
        if left:
            ray.wait(left, num_returns=len(left), timeout=60)


def _failure(error: Exception) -> str:
    """The sentence on a task that failed for good: Ray raises one error for many causes."""
    raised = getattr(error, "cause", None)  # within the worker, where Ray does not try again
    if isinstance(raised, DatabaseAwayError):
        return f"{raised}"
    if raised is None:
        return (
            f"A worker on Ray died too often ({type(error).__name__}: {cause(error)}); run the "
            "same command to continue."
        )
    # Of one that could not start, Ray gives the traceback: of an import, or of its environment.
    last = f"{raised}".strip().splitlines()[-1:] or [type(raised).__name__]
    return (
        f"A worker on Ray cannot start or run ({last[0].strip().rstrip('.')}); each node needs the "
        "same Python packages, axsearch among them, and the same names of model and data; run the "
        "same command to continue."
    )


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_nodes(nodes: list[dict[str, float]], pool: WorkerPool) -> None:
    """Raises UsageError where a worker fits on no node: Ray would wait for one silently."""
    wanted = {"CPU": pool.cpus or 1, "GPU": pool.gpus}
    if not any(all(node.get(n, 0) >= count for n, count in wanted.items()) for node in nodes):
        raise UsageError(
            f"No node of the Ray cluster has {wanted['CPU']} processors and {pool.gpus:g} GPUs "
            "for a worker."
        )


@contextmanager
def _cluster(pool: WorkerPool) -> Iterator[Any]:
    """Ray, connected to a pool's cluster; raises UsageError where it cannot be reached."""
    import ray

    _knock(pool.address)
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=pool.address, log_to_driver=False, configure_logging=False)
        except ray.exceptions.AuthenticationError:
            raise UsageError(
                f"The Ray cluster {pool.address or 'on this machine'} asks for another token; "
                "copy the file ~/.ray/auth_token from its head node to this machine."
            ) from None
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            said = " ".join(f"{error}".split()).rstrip(".")  # where versions differ: several lines
            raise UsageError(
                f"The Ray cluster {pool.address or 'on this machine'} cannot be reached: {said}."
            ) from None
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises UsageError where nothing answers at an address: Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTING).close()
    except OSError as error:
        raise UsageError(
            f"Nothing answers at the Ray address {address}: {error.strerror or error}."
        ) from None


def _work(request: WorkerRequest, threads: int) -> tuple[int, str]:
    """A worker; errors for the user are returned, since Ray wraps those that are raised."""
    try:
        be_worker(request, threads)
    except DatabaseAwayError:
        raise  # another one may find it there
    except AxsearchError as error:
        return error.exit_status, str(error)
    return 0, ""
