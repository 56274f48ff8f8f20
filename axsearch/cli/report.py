"""``axsearch report``."""

from __future__ import annotations

from typing import Annotated

import typer

from axsearch.cli import options
from axsearch.study import Study


def report(
    storage: options.Storage,
    study: options.StudyName,
    out: Annotated[str, typer.Option(help="The HTML file to write.")],
) -> None:
    """Write one HTML file with the front and what it keeps, to open offline.

    Example: axsearch report --storage sqlite:///studies.db --study reviews --out report.html
    """
    from axsearch.report import write_report

    print(write_report(Study.open(storage, study), out))
