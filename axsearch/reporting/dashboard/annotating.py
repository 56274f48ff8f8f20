"""The notes and figures of a study in Optuna Dashboard; they are stored in the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from axsearch.approximations import in_cell
from axsearch.reporting.baselines import served_words
from axsearch.reporting.drops import EXPECTED, UNKNOWN, recovered_words
from axsearch.reporting.explanation import (
    cuts_of,
    export_command,
    in_markdown,
    worth,
    worth_headings,
)
from axsearch.reporting.figures import front, hypervolume, layer_map, style
from axsearch.reporting.figures.data import StudyData
from axsearch.reporting.gallery import study_data
from axsearch.statistics.measurement import Measurement
from axsearch.store.optuna_internals import id_of_trial
from axsearch.store.studies import change_attributes
from axsearch.study.baselines import Baseline, baselines
from axsearch.study.comparison import Ties, ties
from axsearch.study.study import Study
from axsearch.study.tables import Tables

STAR = "\\*"
"""A star in Markdown."""

RELATIVE = "Latency and size are ratios to the base; below 1 is better. Drops are below the base."

HEIGHT = 450
"""Pixels of the box that the dashboard has for a figure."""


def annotate(study: Study) -> None:
    """Update what Optuna Dashboard shows of a study whose base was measured.

    That is a note on the study and on each trial of its front, and three figures. All of it is
    written in one transaction, and only what has changed.
    """
    # Not at the top: importing it loads the dashboard's web app.
    from axsearch.reporting.dashboard.internals import figure_attributes, note_attributes

    members, tables = study.front(), Tables(study)
    tied = ties(study, members)
    trials = study.frozen([m.trial for m in members if m.trial is not None])
    notes: dict[int | None, str] = {None: study_note(study, members, tied)}
    for member in members:
        trial = trials[member.trial or 0]
        notes[id_of_trial(trial)] = trial_note(study, member, tables, trial.params)
    figures = {
        f"axsearch-{name}": style.fitted(figure, HEIGHT).to_json()
        for name, figure in _figures(study_data(study, tied))
    }

    def change(before: Mapping[str, Any]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for trial_id, body in notes.items():
            written |= note_attributes(before, trial_id, body)
        for name, text in figures.items():
            written |= figure_attributes(before, name, text)
        return written

    change_attributes(study.database.engine, study.id, change, identity=study.identity)


def _figures(data: StudyData) -> Iterator[tuple[str, go.Figure]]:
    """The three figures, by names that do not change."""
    yield "front", front.of_study(data)[0]
    yield "layer-map", layer_map.of_study(data)[0]
    yield "hypervolume", hypervolume.of_study(data, compact=True)[0]


def study_note(study: Study, members: Sequence[Measurement], tied: Ties | None) -> str:
    """A study's task and limits, its front, and how to export a model of it, in Markdown."""
    spec, base, served = study.spec, study.baseline, baselines(study)
    name, model, data = map(in_markdown, (study.name, study.model_name, study.data_name))
    limits = [
        f"{name} {value}"
        for name, value in (
            ("at most a drop of", spec.max_drop),
            ("latency ratio at most", spec.max_latency_ratio),
            ("size ratio at most", spec.max_size_ratio),
        )
        if value is not None
    ]
    facts = {
        "model": f"{model}, {base.parameters:,} parameters, {base.size_bytes / 1e6:.1f} MB",
        "task": f"{spec.task}, {spec.metric}, on {data}",
        "machine": spec.machine,
        "latency": study.scenario or "not measured",
        "base": f"{spec.metric} {base.accuracy:.4f} ({base.accuracy_low:.4f} to "
        f"{base.accuracy_high:.4f}) on the search split",
        "limits": "; ".join(limits) or "none",
        **{f"base in {one.words}": _served(study, one) for one in served},
    }
    letters = tied.letters if tied else {}
    relative = served_words(study, served) if served else RELATIVE
    apart = {t for t, one in tied.against_base.items() if one.differs} if tied else set()
    rows = [
        f"| {m.label} | {m.accuracy:.4f}{STAR if m.trial in apart else ''} "
        f"({m.accuracy_low:.4f} to {m.accuracy_high:.4f}) | {_expected(study, m)} "
        f"| {letters.get(m.trial or 0, '')} | {_ratio(m.latency_ratio)} | {m.size_ratio:.3f} |"
        for m in members
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {about} | {fact} |" for about, fact in facts.items()),
            "",
            "## The front",
            "",
            f"{relative} {EXPECTED if study.expected else UNKNOWN}",
            "",
            tied.words.replace("*", STAR) if tied else "",
            recovered_words(members),
            "",
            f"| trial | {spec.metric} | expected drop | ties | latency | size |",
            "|--:|--:|--:|---|--:|--:|",
            *rows,
            "",
            "## Export one of them",
            "",
            f"    {export_command(study, 'N')}",
            "",
        ]
    )


def trial_note(study: Study, member: Measurement, tables: Tables, params: Mapping[str, int]) -> str:
    """What a front member keeps of each layer, and what each cut saved and cost, in Markdown."""
    assert member.trial is not None
    names = [
        name
        for name in dict.fromkeys(n for kept in member.choices.values() for n in kept)
        if any(
            kept.get(name) is not None
            for m in (member, study.baseline)
            for kept in m.choices.values()
        )
    ]
    cuts = list(cuts_of(study, member, tables, params))
    shown = worth_headings(cuts)
    rows = [
        [
            layer,
            *(in_cell(name, layer, member.choices) for name in names),
            *(worth([cut for cut in cuts if cut.layer == layer], heading) for heading in shown),
        ]
        for layer in member.choices
    ]
    rows = [row for row in rows if any(row[1:])]  # of some places nothing is said
    return "\n".join(
        [
            f"{study.spec.metric} **{member.accuracy:.4f}** ({member.accuracy_low:.4f} to "
            f"{member.accuracy_high:.4f}), latency **{_ratio(member.latency_ratio)}** and size "
            f"**{member.size_ratio:.3f}** of the base, {member.parameters:,} parameters. On new "
            f"data a drop of **{_expected(study, member)}** below the base is expected.",
            "",
            f"| {' | '.join(['layer', *names, *shown])} |",
            f"|---|{'--:|' * (len(names) + len(shown))}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"    {export_command(study, member.trial)}",
            "",
        ]
    )


def _served(study: Study, one: Baseline) -> str:
    """The base as it would be served, in a cell."""
    m = one.measurement
    return (
        f"latency {_ratio(m.latency_ratio)}, {m.size_bytes / 1e6:.1f} MB, {study.spec.metric} "
        f"{m.accuracy:.4f} ({m.accuracy_low:.4f} to {m.accuracy_high:.4f})"
    )


def _expected(study: Study, member: Measurement) -> str:
    found = study.expected.get(member.trial or 0)
    return "-" if found is None else f"{found.drop:z.4f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
