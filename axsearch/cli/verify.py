"""``axsearch verify``."""

from __future__ import annotations

import json as to_json
from dataclasses import asdict
from typing import Annotated

import typer

from axsearch.cli.options import Json
from axsearch.options import Option


def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder that export wrote.")],
    storage: Annotated[
        str | None,
        Option("Database URL that the export must be recorded in", omitted="no database is asked"),
    ] = None,
    study: Annotated[
        str | None, Option("Study of that database that it must be of", omitted="any")
    ] = None,
    json: Json = False,
) -> None:
    """Check an exported model: its files, and its predictions in a new process without axsearch.

    Files of git and of the Hugging Face hub may lie beside it, and its README.md may have been
    edited. The folder alone cannot show that nobody changed a file and the list of checksums; the
    database that it was exported from can, with --storage.

    \b
    Examples:
      axsearch verify small
      axsearch verify small --storage sqlite:///studies.db
    """
    from axsearch.export import verify_export

    found = verify_export(folder, storage=storage, study=study)
    if json:
        print(to_json.dumps(asdict(found)))
        return
    notes = ""
    if found.card_edited:
        notes += "; README.md was edited since"
    if found.study is not None:
        notes += f"; recorded as trial {found.trial} of the study {found.study!r}"
    print(
        f"{folder}: {found.files} files, {found.size_bytes:,} bytes, as written; opened as "
        f"{found.format} in a new process, answers differ by at most {found.difference:.1e}{notes}"
    )
