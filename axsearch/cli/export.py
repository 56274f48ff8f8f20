"""``axsearch export``."""

from __future__ import annotations

import json as to_json
from typing import Annotated

import typer

from axsearch.cli import options
from axsearch.study.study import Study


def export(
    storage: options.Storage,
    study: options.StudyName,
    trial: options.Trial,
    out: Annotated[str, typer.Option(help="A folder that does not exist or is empty.")],
    format: Annotated[str, typer.Option(help="hf, onnx or openvino.")] = "hf",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Export a model that is no better than one answer for all, too."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Write a trial's smaller model to a folder.

    \b
    Example:
      axsearch export --storage sqlite:///studies.db --study reviews --trial 12 --out small
    """
    opened = Study.open(storage, study)
    chosen = opened.trial(trial)
    from axsearch.export import export_model

    folder = export_model(opened, trial, out, format=format, force=force)
    if json:
        print(
            to_json.dumps({"path": str(folder), "format": format, **chosen.model_dump(mode="json")})
        )
    else:
        print(folder)
