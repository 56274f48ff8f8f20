"""``axsearch worker``."""

from __future__ import annotations

from typing import Annotated

import typer

from axsearch.cli import options
from axsearch.errors import AxsearchError
from axsearch.running.engines import Job, Place, run_workers


def worker(
    storage: options.Storage,
    study: options.StudyName,
    workers: Annotated[int, typer.Option(help="How many processes on this machine.")] = 1,
    model: options.ModelHere = None,
    data: options.DataHere = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or mps, if not the search's.")
    ] = None,
    cpus_per_worker: options.Cpus = None,
) -> None:
    """Help with a study that a search has made, until it has the trials that were asked for.

    It runs on any machine that reaches the database; a process that dies is started again.

    \b
    Example:
      axsearch worker --storage postgresql://me@db/studies --study reviews
    """
    place = Place(workers, cpus=cpus_per_worker)
    try:
        run_workers(place, Job(storage, study, model, data, device))
    except KeyboardInterrupt:
        raise AxsearchError(
            "stopped; finished trials are kept, and the same command goes on from there."
        ) from None
