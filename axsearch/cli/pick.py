"""``axsearch pick``."""

from __future__ import annotations

import json as to_json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

from axsearch.cli.options import Json
from axsearch.cli.output import as_json
from axsearch.options import Option
from axsearch.reporting.drops import UNKNOWN, expected_words, kept_words, paired_words
from axsearch.reporting.explanation import export_command
from axsearch.running.request import Storage, StudyName
from axsearch.statistics.measurement import Measurement
from axsearch.study.choosing import By
from axsearch.study.comparison import against_base, ties
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
    confidence: Annotated[
        float | None,
        Option(
            "Probability with which the drop on new data must be at most --max-drop, such as 0.9",
            omitted="the expected drop must be",
        ),
    ] = None,
    knee: Annotated[
        bool, Option("Choose the model that is nearest to the best value in every objective")
    ] = False,
    json: Json = False,
) -> None:
    """Choose one model of the front and print the command that exports it.

    A model that was chosen for losing little on the search split loses more on new data. So
    --max-drop is compared with the expected drop, which is corrected for that.

    \b
    Examples:
      axsearch pick --storage sqlite:///studies.db --study reviews --max-drop 0.01
      axsearch pick --storage sqlite:///studies.db --study reviews --max-drop 0.02 --confidence 0.9
      axsearch pick --storage sqlite:///studies.db --study reviews --max-latency-ratio 0.5
      axsearch pick --storage sqlite:///studies.db --study reviews --knee
    """
    opened = Study.open(storage, study)
    chosen = opened.pick(**asdict(limits), confidence=confidence, by=by, knee=knee)
    assert chosen.trial is not None
    expected = opened.expected.get(chosen.trial)
    if json:
        data = as_json(opened, chosen, against_base(opened, [chosen], "holdout"))
        if expected is not None and limits.max_drop is not None:
            data["expected"]["probability"] = expected.probability(limits.max_drop)
        print(to_json.dumps(data))
        return
    latency = "" if chosen.latency_ratio is None else f"latency {chosen.latency_ratio:.3f}, "
    print(
        f"trial {chosen.label}: {opened.spec.metric} {chosen.accuracy:.4f} "
        f"({chosen.accuracy_low:.4f} to {chosen.accuracy_high:.4f}), {latency}"
        f"size {chosen.size_ratio:.3f} of the base"
    )
    if chosen.trial != opened.baseline.trial:
        print(*_trust(opened, chosen, limits.max_drop), sep="\n")
    print(export_command(opened, chosen.trial, opened.database.in_command))


def _trust(study: Study, chosen: Measurement, most: float | None) -> Iterator[str]:
    """Sentences on how far the accuracy of the chosen model can be trusted."""
    trial = chosen.trial or 0
    expected = study.expected.get(trial)
    if expected is None:
        yield UNKNOWN
    else:
        yield expected_words(study, chosen, expected)
        if most is not None:
            yield kept_words(expected, most)
    found = ties(study)
    if found is not None and trial in found.against_base:
        yield paired_words(found.against_base[trial], study.spec.metric)
    if found is not None and (others := found.tied.get(trial)):
        yield (
            f"No difference in {study.spec.metric} is shown between it and trial "
            f"{', '.join(map(str, others))}."
        )
