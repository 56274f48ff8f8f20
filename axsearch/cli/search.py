"""``axsearch search``."""

from __future__ import annotations

from axsearch.cli.front import print_front, print_json
from axsearch.cli.options import Json
from axsearch.errors import AxsearchError
from axsearch.running.request import SearchRequest
from axsearch.running.resolving import resolve


def search(request: SearchRequest, json: Json = False) -> None:
    """Search the approximations of a fine-tuned model, or resume an existing study.

    Models that are known to break a limit on latency or size are pruned without being evaluated. A
    SQLite file that does not exist is created.

    \b
    Example:
      axsearch search --model base --data data --trials 100 \\
        --storage sqlite:///studies.db --study reviews
    """
    resolved = resolve(request)
    from axsearch.running.search import prepare, run  # with torch, after what can be refused

    try:
        done = run(prepare(resolved))
    except KeyboardInterrupt:
        raise AxsearchError(
            "stopped; finished trials are kept, and the same command continues from there."
        ) from None
    if json:
        print_json(done)
    else:
        print_front(done)
