"""Workers as tasks of a Ray cluster, which places them and starts them again where they die."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, ClassVar

from axsearch.engines import Engine, Job, Place, be_worker
from axsearch.errors import AxsearchError, UsageError

RETRIES = 6
"""How often Ray starts a worker again whose process or node died."""

TICK = 1.0


class OnRay(Engine):
    """Runs workers on a Ray cluster: the one at ``Place.address``, or else one made here.

    Storage, model and data must be reachable from the nodes under the names that the study has.
    """

    name: ClassVar[str] = "ray"

    def check(self, place: Place) -> None:
        """Ray must be installed."""
        if importlib.util.find_spec("ray") is None:
            raise UsageError("--engine ray needs Ray: pip install 'axsearch[ray]'.")

    def run(self, place: Place, job: Job, poll: Callable[[], int]) -> None:
        """See :class:`axsearch.engines.Engine`."""
        import ray

        mine = not ray.is_initialized()
        if mine:
            try:
                ray.init(address=place.address, log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UsageError(
                    f"The Ray cluster {place.address or 'on this machine'} cannot be reached: "
                    f"{str(error).splitlines()[0]}."
                ) from None
        threads = place.cpus or 1
        task: Any = ray.remote(num_cpus=threads, num_gpus=place.gpus, max_retries=RETRIES)(_work)
        left = [task.remote(job, threads) for _ in range(place.workers)]
        try:
            while left:
                done, left = ray.wait(left, timeout=TICK)
                for status, words in ray.get(done):
                    if status:
                        raise (UsageError if status == 2 else AxsearchError)(words)
                poll()
        except ray.exceptions.RayError as error:
            raise AxsearchError(
                f"A worker on Ray died too often ({type(error).__name__}); run the same command to "
                "go on."
            ) from None
        finally:
            for one in left:
                ray.cancel(one)  # as a Ctrl-C in the worker: its trial is given back
            if left:
                ray.wait(left, num_returns=len(left), timeout=60)
            if mine:
                ray.shutdown()


def _work(job: Job, threads: int) -> tuple[int, str]:
    """A worker; what a user must be told is returned, since Ray would try errors again."""
    try:
        be_worker(job, threads)
    except AxsearchError as error:
        return error.exit_status, str(error)
    return 0, ""
