"""How commands print to stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.study.baselines import Baseline
from axsearch.study.comparison import AgainstBase
from axsearch.study.study import Study

PIPED_WIDTH = 170


def stdout() -> Console:
    """Colours are off where stdout is not a terminal or NO_COLOR is set."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def say(console: Console, *sentences: str) -> None:
    """Each on a line of its own, however wide the terminal is: it can be copied."""
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)


def numbers(columns: Mapping[str, Sequence[str]], console: Console, *, title: str) -> Table:
    """A table of numbers, without lines where they would not fit; its rows are still to come."""
    table = Table(title=title)
    if width(columns) > console.width:
        table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def width(columns: Mapping[str, Sequence[str]], between: int = 3) -> int:
    """Characters that a table takes: what is in it and a line and two blanks for each column."""
    return sum(max(map(len, (name, *cells))) + between for name, cells in columns.items())


def ratio(value: float | None, *, measured: bool = True) -> str:
    """A ratio to the base, with ~ where it is predicted."""
    return "" if value is None else f"{'' if measured else '~'}{value:.3f}"


def as_json(study: Study, member: Measurement, held: Mapping[int, AgainstBase]) -> dict[str, Any]:
    """A model of the front as plain data: its measurement, and its drops below the base.

    ``expected`` and ``holdout_drop`` are null where they are not known.

    Args:
        study: of the model.
        member: its measurement.
        held: models against the base on the holdout split, by trial.
    """
    expected, opened = study.expected.get(member.trial or 0), held.get(member.trial or 0)
    return {
        **member.model_dump(mode="json"),
        "expected": expected and _drop(expected.interval),
        "holdout_drop": opened and _drop(opened.drop),
    }


def baseline_as_json(one: Baseline) -> dict[str, Any]:
    """The base as it would be served, as plain data; drops are null where they are not known."""
    return {
        **one.measurement.model_dump(mode="json"),
        "runtime": one.timed.runtime,
        "precision": one.timed.precision,
        "search_drop": one.search and _drop(one.search.drop),
        "holdout_drop": one.holdout and _drop(one.holdout.drop),
    }


def _drop(found: Estimate) -> dict[str, float]:
    return {"drop": found.value, "low": found.low, "high": found.high}
