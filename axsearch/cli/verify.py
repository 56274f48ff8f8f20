"""``axsearch verify``."""

from __future__ import annotations

import json as to_json
from dataclasses import asdict
from typing import Annotated

import typer

from axsearch.cli.options import Json


def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder that export wrote.")],
    json: Json = False,
) -> None:
    """Check an exported model: its files, and its predictions in a new process without axsearch.

    \b
    Example:
      axsearch verify small
    """
    from axsearch.export import verify_export

    found = verify_export(folder)
    if json:
        print(to_json.dumps(asdict(found)))
        return
    print(
        f"{folder}: {found.files} files, {found.size_bytes:,} bytes, as written; opened as "
        f"{found.format} in a new process, answers differ by at most {found.difference:.1e}"
    )
