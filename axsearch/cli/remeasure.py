"""``axsearch remeasure``."""

from __future__ import annotations

import json as to_json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from axsearch.cli.options import Json
from axsearch.cli.output import numbers, ratio, say, stdout
from axsearch.options import Option, like
from axsearch.running.request import DataHere, ModelHere, SearchRequest, Storage, StudyName
from axsearch.statistics.measurement import Measurement
from axsearch.study.settings import Load
from axsearch.study.study import Study

if TYPE_CHECKING:
    from axsearch.running.remeasuring import Ranking

OF_STUDY = "the study's"


def remeasure(
    storage: Storage,
    study: StudyName,
    batch_size: Annotated[int | None, like(Load, "batch_size", omitted=OF_STUDY)] = None,
    sequence_length: Annotated[
        int | None,
        like(Load, "sequence_length", omitted=f"{OF_STUDY}; if 0: the examples' own lengths"),
    ] = None,
    threads: Annotated[int | None, like(Load, "threads", omitted=OF_STUDY)] = None,
    device: Annotated[str | None, like(SearchRequest, "device", omitted=OF_STUDY)] = None,
    runtime: Annotated[
        str | None,
        Option("Runtime: torch, onnxruntime or openvino", omitted=OF_STUDY),
    ] = None,
    precision: Annotated[
        str | None,
        Option(
            "Precision: float32, bfloat16 (torch, openvino) or int8 (onnxruntime, openvino)",
            omitted=f"float32 with --runtime, else {OF_STUDY}",
        ),
    ] = None,
    model: ModelHere = None,
    data: DataHere = None,
    again: Annotated[
        bool, Option("Measure again the models that were already measured in this scenario")
    ] = False,
    json: Json = False,
) -> None:
    """Rank a study's models for another scenario, or this machine, without searching again.

    \b
    Examples:
      axsearch remeasure --storage sqlite:///studies.db --study reviews --batch-size 1
      axsearch remeasure --storage sqlite:///studies.db --study reviews --runtime openvino
    """
    opened = Study.open(storage, study)
    before = {m.trial: (place, m) for place, m in enumerate(opened.front(), 1)}
    from axsearch.running.remeasuring import remeasure as run

    found = run(
        opened,
        model=model,
        data=data,
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads,
        device=device,
        runtime=runtime,
        precision=precision,
        again=again,
    )
    if json:
        print_json(opened, found)
    else:
        print_ranking(opened, found, before)


def print_json(study: Study, found: Ranking) -> None:
    """The ranking as one object: its scenario and machine, the models, their latencies by trial."""
    data = {
        "study": study.name,
        "machine": found.machine,
        "scenario": found.scenario,
        "baseline": found.baseline.model_dump(mode="json"),
        "front": [member.model_dump(mode="json") for member in found.front],
        "latencies": {str(trial): asdict(own) for trial, own in found.latencies.items()},
    }
    print(to_json.dumps(data))


def print_ranking(
    study: Study, found: Ranking, before: Mapping[int | None, tuple[int, Measurement]]
) -> None:
    """A table of the models; ``before`` are the study's own front and ranks, by trial."""
    own = [found.latencies[m.trial or 0] for m in found.front]
    known = [before.get(m.trial, ("", None)) for m in found.front]
    columns = {
        "rank": [str(rank) for rank, _ in enumerate(found.front, 1)],
        "trial": [m.label for m in found.front],
        study.spec.metric: [f"{m.accuracy:.4f}" for m in found.front],
        "latency": [ratio(m.latency_ratio) for m in found.front],
        "quartiles": [f"{latency.low:.3f}-{latency.high:.3f}" for latency in own],
        "size": [ratio(m.size_ratio) for m in found.front],
        "study's rank": [str(place) for place, _ in known],
        "study's latency": [
            "" if m is None else ratio(m.latency_ratio, measured=m.latency_measured)
            for _, m in known
        ],
    }
    console = stdout()
    table = numbers(columns, console, title=f"{study.name}: front for {found.words}")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    left = [str(trial) for trial in before if trial not in found.latencies]
    say(
        console,
        f"Latency and size are relative to the base; latency was measured on {found.machine}.",
        *([f"No longer on the front: {', '.join(left)}."] if left else []),
    )
