"""``axsearch report``."""

from __future__ import annotations

from typing import Annotated, Literal

from axsearch.options import Option
from axsearch.running.request import RankedPrecision, RankedRuntime, Storage, StudyName
from axsearch.study.rankings import ranked
from axsearch.study.study import Study


def report(
    storage: Storage,
    study: StudyName,
    out: Annotated[str, Option("File to write, such as report.html")],
    format: Annotated[
        Literal["html", "md"] | None,
        Option("Format: html, or md for a pull request", omitted="by the name of the file"),
    ] = None,
    trial: Annotated[
        int | None,
        Option(
            "Trial whose model is explained",
            omitted="the fastest one that loses at most 0.01",
            minimum=0,
        ),
    ] = None,
    runtime: RankedRuntime = None,
    precision: RankedPrecision = None,
) -> None:
    """Write a report as one file that opens offline: the front, the figures, one model explained.

    \b
    Examples:
      axsearch report --storage sqlite:///studies.db --study reviews --out report.html
      axsearch report --storage sqlite:///studies.db --study reviews --out report.md
    """
    from axsearch.reporting.report import write_report

    opened = ranked(Study.open(storage, study), runtime, precision)
    print(write_report(opened, out, format=format, trial=trial))
