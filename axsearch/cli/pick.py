"""``axsearch pick``."""

from __future__ import annotations

from typing import Annotated

import typer

from axsearch.cli import options
from axsearch.reporting.explanation import export_command
from axsearch.study.choosing import By
from axsearch.study.comparison import ties
from axsearch.study.study import Study


def pick(
    storage: options.Storage,
    study: options.StudyName,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy that may be lost at most, such as 0.01.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(help="Share of the base's time at most, such as 0.5.")
    ] = None,
    max_size_ratio: Annotated[
        float | None, typer.Option(help="Share of the base's bytes at most, such as 0.7.")
    ] = None,
    by: Annotated[
        By | None,
        typer.Option(
            help="What the chosen model is best in, within the limits; equals go to the smaller "
            "one. Latency if left out with --max-drop, else accuracy."
        ),
    ] = None,
    knee: Annotated[
        bool, typer.Option("--knee", help="The member nearest to the best of everything.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Choose one model of the front, and print the command that exports it.

    \b
    Examples:
      axsearch pick --storage sqlite:///studies.db --study reviews --max-drop 0.01
      axsearch pick --storage sqlite:///studies.db --study reviews --max-latency-ratio 0.5
      axsearch pick --storage sqlite:///studies.db --study reviews --knee
    """
    opened = Study.open(storage, study)
    chosen = opened.pick(
        max_drop=max_drop,
        max_latency_ratio=max_latency_ratio,
        max_size_ratio=max_size_ratio,
        by=by,
        knee=knee,
    )
    if json:
        print(chosen.model_dump_json())
        return
    assert chosen.trial is not None
    latency = "" if chosen.latency_ratio is None else f"latency {chosen.latency_ratio:.3f}, "
    print(
        f"trial {chosen.trial}: {opened.spec.metric} {chosen.accuracy:.4f} "
        f"({chosen.accuracy_low:.4f} to {chosen.accuracy_high:.4f}), {latency}"
        f"size {chosen.size_ratio:.3f} of the base"
    )
    found = ties(opened)
    if found is not None and (others := found.tied.get(chosen.trial)):
        names = ["the base" if t == opened.baseline.trial else str(t) for t in others]
        print(f"tied with it in {opened.spec.metric}, statistically: {', '.join(names)}")
    print(export_command(opened, chosen.trial, opened.database.url))
