"""``axsearch pick``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from axsearch.cli.options import Json
from axsearch.options import Option
from axsearch.reporting.explanation import export_command
from axsearch.running.request import Storage, StudyName
from axsearch.study.choosing import By
from axsearch.study.comparison import ties
from axsearch.study.settings import Limits
from axsearch.study.study import Study


def pick(
    storage: Storage,
    study: StudyName,
    limits: Limits,
    by: Annotated[
        By | None,
        Option(
            "Which value to optimise within the limits; ties go to the smaller model",
            omitted="latency with --max-drop, otherwise accuracy",
        ),
    ] = None,
    knee: Annotated[
        bool, Option("Choose the model that is nearest to the best value in every objective")
    ] = False,
    json: Json = False,
) -> None:
    """Choose one model of the front and print the command that exports it.

    \b
    Examples:
      axsearch pick --storage sqlite:///studies.db --study reviews --max-drop 0.01
      axsearch pick --storage sqlite:///studies.db --study reviews --max-latency-ratio 0.5
      axsearch pick --storage sqlite:///studies.db --study reviews --knee
    """
    opened = Study.open(storage, study)
    chosen = opened.pick(**asdict(limits), by=by, knee=knee)
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
