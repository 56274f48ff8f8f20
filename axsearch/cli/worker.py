"""``axsearch worker``."""

from __future__ import annotations

from typing import Annotated

from axsearch.cli.options import Without
from axsearch.errors import AxsearchError
from axsearch.running.engines import run_workers
from axsearch.running.request import WorkerPool, WorkerRequest


def worker(
    request: WorkerRequest,
    place: Annotated[WorkerPool, Without(("engine", "address", "gpus"))],
) -> None:
    """Add workers to a study that a search has begun, until it has the trials asked for.

    It runs on any machine that can reach the database; a process that dies is started again.

    \b
    Example:
      axsearch worker --storage postgresql://me@db/studies --study reviews
    """
    try:
        run_workers(place, request)
    except KeyboardInterrupt:
        raise AxsearchError(
            "stopped; finished trials are kept, and the same command continues from there."
        ) from None
