"""``axsearch doctor``."""

from __future__ import annotations

import json as to_json
from dataclasses import asdict
from typing import Annotated

from rich.table import Table
from rich.text import Text

from axsearch.cli.options import Json
from axsearch.cli.output import stdout
from axsearch.errors import AxsearchError
from axsearch.options import like
from axsearch.running.request import SearchRequest

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


def doctor(
    storage: Annotated[
        str | None, like(SearchRequest, "storage", omitted="no database is checked")
    ] = None,
    json: Json = False,
) -> None:
    """Check versions, threads, machine, database, heartbeats and artifacts, and say what to fix.

    \b
    Example:
      axsearch doctor --storage sqlite:///studies.db
    """
    from axsearch.doctor import examine

    findings = list(examine(storage))
    if json:
        print(to_json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for finding in findings:
            words = finding.found + (f"; {finding.advice}" if finding.advice else "")
            table.add_row(Text(finding.state, COLOURS[finding.state]), finding.name, words)
        stdout().print(table)
    failures = [finding.name for finding in findings if finding.state == "failure"]
    if failures:
        raise AxsearchError(f"not well: {', '.join(failures)}.")
