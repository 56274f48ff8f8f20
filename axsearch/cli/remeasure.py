"""``axsearch remeasure``."""

from __future__ import annotations

import json as to_json
from dataclasses import asdict
from typing import Annotated

import typer

from axsearch.cli import options
from axsearch.cli.output import numbers, ratio, say, stdout
from axsearch.study.study import Study


def remeasure(
    storage: options.Storage,
    study: options.StudyName,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a batch; the study's if left out.")
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens an example, 0 for the examples' own lengths; the study's if left out."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads; the study's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the study's.")] = None,
    model: options.ModelHere = None,
    data: options.DataHere = None,
    again: Annotated[
        bool, typer.Option("--again", help="Time what was timed in this scenario before, too.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Rank a study's models for another scenario, or this machine, without searching again.

    \b
    Example:
      axsearch remeasure --storage sqlite:///studies.db --study reviews --batch-size 1
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
        again=again,
    )
    if json:
        data_ = {
            "study": study,
            "machine": found.machine,
            "scenario": found.scenario,
            "baseline": found.baseline.model_dump(mode="json"),
            "front": [member.model_dump(mode="json") for member in found.front],
            "latencies": {str(trial): asdict(own) for trial, own in found.latencies.items()},
        }
        print(to_json.dumps(data_))
        return
    own = [found.latencies[m.trial or 0] for m in found.front]
    known = [before.get(m.trial, ("", None)) for m in found.front]
    columns = {
        "rank": [str(rank) for rank, _ in enumerate(found.front, 1)],
        "trial": [str(m.trial) for m in found.front],
        opened.spec.metric: [f"{m.accuracy:.4f}" for m in found.front],
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
    table = numbers(columns, console, title=f"{study}: front for {found.words}")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    left = [str(trial) for trial in before if trial not in found.latencies]
    say(
        console,
        f"Latency and size are relative to the base; latency was measured on {found.machine}.",
        *([f"No longer on the front: {', '.join(left)}."] if left else []),
    )
