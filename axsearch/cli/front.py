"""``axsearch front``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_args

from rich.console import Console
from rich.prompt import Prompt

from axsearch.approximations import UnitRemoval, named
from axsearch.cli.explain import print_explanation
from axsearch.cli.options import Json, flags, in_options
from axsearch.cli.output import (
    as_json,
    baseline_as_json,
    numbers,
    ratio,
    say,
    stdout,
    width,
)
from axsearch.errors import UsageError
from axsearch.options import Option
from axsearch.reporting.baselines import served_words
from axsearch.reporting.drops import EXPECTED, recovered_words
from axsearch.reporting.explanation import explain_trial
from axsearch.running.request import (
    DataHere,
    ModelHere,
    RankedPrecision,
    RankedRuntime,
    Storage,
    StudyName,
)
from axsearch.statistics.measurement import Measurement
from axsearch.study.baselines import Baseline, baselines
from axsearch.study.choosing import ORDERS, By
from axsearch.study.comparison import (
    AgainstBase,
    SelectionBias,
    Ties,
    against_base,
    selection_bias,
    ties,
)
from axsearch.study.rankings import ranked
from axsearch.study.study import Study

INTERVAL = "95 % interval"
POLISHED = (
    "Models of the front were refitted on more examples than in their trials, and evaluated again."
)


def front(
    storage: Storage,
    study: StudyName,
    holdout: Annotated[
        bool,
        Option("Evaluate the front on the holdout split, once, and show the selection bias"),
    ] = False,
    runtime: RankedRuntime = None,
    precision: RankedPrecision = None,
    model: ModelHere = None,
    data: DataHere = None,
    json: Json = False,
) -> None:
    """Print the Pareto front of a study, and how far its accuracies can be trusted.

    The expected drop is what a model is expected to lose on new data: the drop on the search split,
    corrected for the model having been chosen by it.

    In a terminal it then asks for a trial to explain, or for another order; Enter quits.

    \b
    Examples:
      axsearch front --storage sqlite:///studies.db --study reviews
      axsearch front --storage sqlite:///studies.db --study reviews --holdout
      axsearch front --storage sqlite:///studies.db --study reviews --runtime openvino
    """
    opened = ranked(Study.open(storage, study), runtime, precision)
    if holdout and any(
        member.holdout_accuracy is None for member in (opened.baseline, *opened.front())
    ):
        from axsearch.evaluation.loading import MovedError
        from axsearch.running.holdout import evaluate_front

        try:
            evaluate_front(opened, model=model, data=data)
        except MovedError as error:  # what is known can be shown all the same
            sentence = in_options(str(error), flags(front))
            say(Console(stderr=True), f"The holdout split is not opened: {sentence}")
    if json:
        print_json(opened)
        return
    print_front(opened)
    # A notebook's `!` looks like a terminal, but nobody can answer there.
    if sys.stdin.isatty() and sys.stdout.isatty() and "JPY_PARENT_PID" not in os.environ:
        ask(opened)


def print_json(study: Study) -> None:
    """``{"study", "baseline", "front"}``, then ``ties`` and ``selection_bias``, null if unknown.

    ``baselines`` is the base in each runtime and precision that it was measured in; ``scenario``
    and ``machine`` say what latencies are about, null where there are none.
    """
    found, bias = ties(study), selection_bias(study)
    held = against_base(study, study.front(), "holdout")
    data: dict[str, Any] = {
        "study": study.name,
        "baseline": as_json(study, study.baseline, held),
        "front": [as_json(study, member, held) for member in study.front()],
        "ties": found
        and {
            "split": found.split,
            "groups": [list(g) for g in found.groups],
            "differ_from_base": [t for t, one in found.against_base.items() if one.differs],
        },
        "selection_bias": bias and bias.mean._asdict(),
        "baselines": [baseline_as_json(one) for one in baselines(study)],
        "scenario": None if study.spec.scenario is None else study.spec.scenario.to_dict(),
        "machine": study.spec.machine,
    }
    print(json.dumps(data))


def print_front(study: Study, order: By = "latency") -> None:
    """A table to stdout: the base, then the front."""
    members = sorted(study.front(), key=ORDERS[order])
    tied, bias, served = ties(study), selection_bias(study), baselines(study)
    rows = [_Row(f"base, {one.words}", one.measurement, one) for one in served]
    if served:  # which say more than the recipe that removes nothing
        members = [m for m in members if m.recipe != study.baseline.recipe]
    rows = rows or [_Row("base", study.baseline)]
    bases = len(rows)
    rows += [_Row(member.label, member) for member in members]
    models = [row.member for row in rows]
    columns: dict[str, list[str]] = {
        "trial": [row.label for row in rows],
        study.spec.metric: [f"{r.member.accuracy:.4f}{_mark(r, tied)}" for r in rows],
        INTERVAL: [f"{m.accuracy_low:.4f}-{m.accuracy_high:.4f}" for m in models],
        **_trust(study, rows, tied),
    }
    if study.baseline.latency_ratio is not None:
        columns["latency"] = [ratio(m.latency_ratio, measured=m.latency_measured) for m in models]
    columns["size"] = [ratio(m.size_ratio) for m in models]
    layers = [" ".join(filter(None, map(_layer, m.choices.values()))) for m in models]
    console = stdout()
    for interval in (INTERVAL, f"{INTERVAL} "):  # columns that a narrow terminal has no room for
        if width(columns, between=2) > console.width:
            columns.pop(interval, None)
    table = numbers(columns, console, title=f"{study.name}: front of {study.count} trials")
    # In a narrow terminal layers would take many lines; `axsearch explain` has them as well.
    room = console.width - width(columns) - 4
    if not console.is_terminal or room >= max(map(len, layers)) / 2:
        heading = _layers_heading(study.baseline)
        columns[heading] = layers
        table.add_column(heading, overflow="fold")
    for number, row in enumerate(zip(*columns.values(), strict=True), 1):
        table.add_row(*row, end_section=number == bases)
    console.print(table)
    say(console, *_footnotes(study, members, served, tied, bias))


@dataclass(frozen=True)
class _Row:
    """A model in the table of a front; ``baseline`` where it is the base as it would be served."""

    label: str
    member: Measurement
    baseline: Baseline | None = None


def _trust(study: Study, rows: Sequence[_Row], tied: Ties | None) -> dict[str, list[str]]:
    """The columns about how far an accuracy can be trusted, where they are known."""
    columns: dict[str, list[str]] = {}
    trials = [row.member.trial or 0 for row in rows]
    if study.expected:
        columns["expected drop"] = [
            _drop(row.baseline.search) or f"{0:.4f}"  # of the user's own model
            if row.baseline
            else f"{study.expected[trial].drop:z.4f}"
            for row, trial in zip(rows, trials, strict=True)
        ]
    models = [row.member for row in rows]
    holdout = study.holdout(models)
    if holdout:
        held = against_base(study, models, "holdout")
        columns["holdout drop"] = [
            _drop(row.baseline.holdout if row.baseline else held.get(trial))
            for row, trial in zip(rows, trials, strict=True)
        ]
    if tied and tied.groups:
        columns["ties"] = [
            "" if row.baseline else tied.letters.get(trial, "")
            for row, trial in zip(rows, trials, strict=True)
        ]
    if holdout:
        found = [
            row.baseline.opened if row.baseline else holdout.get(trial)
            for row, trial in zip(rows, trials, strict=True)
        ]
        columns["holdout"] = [f"{h.value:.4f}" if h else "" for h in found]
        columns[f"{INTERVAL} "] = [f"{h.low:.4f}-{h.high:.4f}" if h else "" for h in found]
    return columns


def _drop(found: AgainstBase | None) -> str:
    return "" if found is None else f"{found.drop.value:z.4f}"


def _mark(row: _Row, tied: Ties | None) -> str:
    """A star on a model that differs from the base."""
    found = tied and tied.against_base.get(row.member.trial or 0)
    if row.baseline is not None:
        found = row.baseline.search
    return "*" if found and found.differs else " " if tied else ""


def ask(study: Study) -> None:
    """Explain the trials that the user enters, until there is none."""
    console = Console(highlight=False, stderr=True)
    words = f"Trial to explain, or {', '.join(ORDERS)} to sort by (Enter quits)"

    def answer() -> str:
        with suppress(EOFError, KeyboardInterrupt):  # ways to quit, too
            return Prompt.ask(words, console=console, default="", show_default=False).strip()
        return ""

    while wanted := answer():
        if wanted in get_args(By):
            print_front(study, cast(By, wanted))
        elif wanted.isdecimal():
            try:
                found = explain_trial(study, int(wanted), ties(study), selection_bias(study))
                print_explanation(study, found)
            except UsageError as error:
                say(console, str(error))


def _footnotes(
    study: Study,
    members: Sequence[Measurement],
    served: Sequence[Baseline],
    tied: Ties | None,
    bias: SelectionBias | None,
) -> list[str]:
    notes = ["Latency and size are relative to the base, drops are below it."]
    if served:
        notes = [served_words(study, served)]
    if study.scenario:
        measured = all(m.latency_measured for m in members)
        shown = "measured" if measured else "~ where it is predicted"
        where = "" if study.searched is study else f", on {study.spec.machine}"
        notes[0] += f" Latency, {shown}: {study.scenario}{where}."
    used = dict.fromkeys(n for m in members for c in m.choices.values() for n in c if c[n])
    notes += [one.note for one in named(used) if one.note]
    if study.spec.polished and any(m.accuracy_tried is not None for m in members):
        notes.append(POLISHED)
    if words := recovered_words(members):
        notes.append(words)
    if study.expected:
        notes.append(EXPECTED)
    if tied is not None:
        notes.append(tied.words)
    if bias is not None:
        notes.append(bias.words)
    if members:
        name = shlex.quote(study.name)
        notes.append(f"axsearch explain --study {name} --trial N explains a model.")
    return notes


def _layers_heading(baseline: Measurement) -> str:
    names = dict.fromkeys(name for kept in baseline.choices.values() for name in kept)
    units = [one.unit for one in named(names) if isinstance(one, UnitRemoval)]
    return f"{' / '.join(units)} kept, layer by layer"


def _layer(choices: dict[str, int | None]) -> str:
    found = [(one.short, choices[one.name]) for one in named(choices)]
    return "/".join(f"{short}{value}" for short, value in found if value is not None)
