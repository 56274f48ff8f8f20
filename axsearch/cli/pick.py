"""``axsearch pick``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from axsearch.cli import options
from axsearch.study import Study


def pick(
    storage: options.Storage,
    study: options.StudyName,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy that may be lost at most, such as 0.01.")
    ] = None,
    by: Annotated[
        Literal["latency", "size"], typer.Option(help="What the chosen model is best in.")
    ] = "latency",
    knee: Annotated[
        bool, typer.Option("--knee", help="The member nearest to the best of everything.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Choose one model of the front.

    Example: axsearch pick --storage sqlite:///studies.db --study reviews --max-drop 0.01 --by size
    """
    opened = Study.open(storage, study)
    chosen = opened.pick(max_drop=max_drop, by=by, knee=knee)
    if json:
        print(chosen.model_dump_json())
        return
    latency = "" if chosen.latency_ratio is None else f"latency {chosen.latency_ratio:.3f}, "
    print(
        f"trial {chosen.trial}: {opened.spec.metric} {chosen.accuracy:.4f}, {latency}"
        f"size {chosen.size_ratio:.3f} of the base\n"
        f"axsearch export --storage {opened.database.url} --study {study} --trial {chosen.trial} "
        "--format hf --out DIR"
    )
