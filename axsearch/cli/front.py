"""``axsearch front``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from axsearch.cli import options
from axsearch.measurement import Measurement
from axsearch.study import Study

PIPED_WIDTH = 140


def front(
    storage: options.Storage,
    study: options.StudyName,
    holdout: Annotated[
        bool, typer.Option("--holdout", help="Evaluate the front on the holdout split first.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Print the Pareto front of a study.

    Example: axsearch front --storage sqlite:///studies.db --study reviews
    """
    opened = Study.open(storage, study)
    if holdout and any(
        member.holdout_accuracy is None for member in (opened.baseline, *opened.front())
    ):
        from axsearch.holdout import evaluate_front

        evaluate_front(opened)
    if json:
        print_json(opened)
    else:
        print_front(opened)


def print_json(study: Study) -> None:
    """``{"study", "baseline", "front"}``."""
    data = {
        "study": study.name,
        "baseline": study.baseline.model_dump(mode="json"),
        "front": [member.model_dump(mode="json") for member in study.front()],
    }
    print(json.dumps(data))


def print_front(study: Study) -> None:
    """A table to stdout: the base, then the front, fastest first."""
    members = study.front()
    table = Table(title=f"{study.name}: front of {study.count} trials")
    for column in ("trial", study.spec.metric, "95 % interval", "holdout", "latency", "size"):
        table.add_column(column, justify="right")
    table.add_column("heads / neurons kept, layer by layer", overflow="fold")
    table.add_row(*_cells(study.baseline, "base"), end_section=True)
    for member in members:
        table.add_row(*_cells(member, str(member.trial)))
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)
    console.print(
        "Latency and size are relative to the base."
        + (f" Latency{_measured(members)}: {study.scenario}." if study.scenario else ""),
        highlight=False,
        soft_wrap=True,
    )


def _measured(members: list[Measurement]) -> str:
    if all(m.latency_measured for m in members):
        return ", measured"
    return ", ~ where it is predicted"


def _cells(m: Measurement, label: str) -> list[str]:
    return [
        label,
        f"{m.accuracy:.4f}",
        f"{m.accuracy_low:.4f}-{m.accuracy_high:.4f}",
        "" if m.holdout_accuracy is None else f"{m.holdout_accuracy:.4f}",
        ""
        if m.latency_ratio is None
        else f"{'' if m.latency_measured else '~'}{m.latency_ratio:.3f}",
        f"{m.size_ratio:.3f}",
        " ".join(_layer(choices) for choices in m.choices.values()),
    ]


def _layer(choices: dict[str, int | None]) -> str:
    settings = {"k": choices.get("topk"), "n": choices.get("ffn_topk")}
    given = "".join(f"/{short}{value}" for short, value in settings.items() if value is not None)
    return f"{choices['heads']}/{choices['ffn']}{given}"
