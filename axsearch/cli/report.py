"""``axsearch report``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from axsearch.cli import options
from axsearch.study.study import Study


def report(
    storage: options.Storage,
    study: options.StudyName,
    out: Annotated[str, typer.Option(help="The file to write, such as report.html.")],
    format: Annotated[
        Literal["html", "md"] | None,
        typer.Option(help="html, or md for a pull request; by the file's name if left out."),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The model to explain; if left out the fastest that loses at most 0.01.",
        ),
    ] = None,
) -> None:
    """Write one HTML file to open offline: the front, the figures, a model explained.

    \b
    Examples:
      axsearch report --storage sqlite:///studies.db --study reviews --out report.html
      axsearch report --storage sqlite:///studies.db --study reviews --out report.md
    """
    from axsearch.reporting.report import write_report

    print(write_report(Study.open(storage, study), out, format=format, trial=trial))
