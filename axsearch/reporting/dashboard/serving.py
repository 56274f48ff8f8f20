"""Notes and figures for Optuna Dashboard, and serving it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import plotly.graph_objects as go
from optuna_dashboard import wsgi
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA, split_plot_data
from optuna_dashboard._note import (
    get_note_from_system_attrs,
    note_str_key_prefix,
    note_ver_key,
    split_body,
)
from waitress import create_server, wasyncore

from axsearch.errors import UsageError, cause
from axsearch.reporting.dashboard.guard import Guard
from axsearch.reporting.dashboard.login import Login, check_password
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
from axsearch.store.artifacts import ArtifactStore
from axsearch.store.database import open_database
from axsearch.store.studies import change_attributes
from axsearch.study.comparison import Ties, ties
from axsearch.study.study import Study
from axsearch.study.tables import Tables

LOOPBACK = ("127.0.0.1", "localhost", "::1")

SERVER = {
    "threads": 4,
    "connection_limit": 100,
    "channel_timeout": 60,  # seconds that an idle connection is kept
    "max_request_header_size": 2**15,
    "max_request_body_size": 2**26,  # artifacts that are uploaded on the page
    "ident": None,  # no Server header
    "log_socket_errors": False,
}


HEIGHT = 450
"""Pixels of the box that the dashboard has for a figure."""

STYLE = b"<style>main p{white-space:normal!important;overflow-wrap:anywhere}</style>"
"""The dashboard breaks no lines of attributes: one long value makes a trial's page, with its note,
six thousand pixels wide."""


def is_due(count: int) -> bool:
    """Whether the dashboard is brought up to date after so many trials.

    What it costs grows with the study, so that it is done every 20 trials at first and every 500
    in the end.
    """
    return count % (20 if count <= 200 else 100 if count <= 2000 else 500) == 0


def annotate(study: Study) -> None:
    """Bring up to date what Optuna Dashboard shows of a study whose base was measured.

    That is a note on the study and on each trial of its front, and three figures. All of it is
    written in one transaction, and only what has changed.
    """
    members, tables = study.front(), Tables(study)
    tied = ties(study, members)
    trials = study.frozen([m.trial for m in members if m.trial is not None])
    notes: dict[int | None, str] = {None: study_note(study, members, tied)}
    for member in members:
        trial = trials[member.trial or 0]
        notes[trial._trial_id] = trial_note(study, member, tables, trial.params)
    figures = {
        f"axsearch-{name}": style.fitted(figure, HEIGHT).to_json()
        for name, figure in _figures(study_data(study, tied))
    }

    def change(before: Mapping[str, Any]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for trial_id, body in notes.items():
            known = get_note_from_system_attrs(before, trial_id)
            if known["body"] != body:
                parts = split_body(body, trial_id)
                written |= {note_ver_key(trial_id): known["version"] + 1}
                written |= _whole(before, note_str_key_prefix(trial_id), parts)
        for name, text in figures.items():
            prefix = f"{SYSTEM_ATTR_PLOT_DATA}{name}:"
            written |= _whole(before, prefix, split_plot_data(text, prefix))
        return written

    change_attributes(study.database.engine, study.id, change)


def _whole(before: Mapping[str, Any], prefix: str, parts: Mapping[str, str]) -> dict[str, str]:
    """The parts of a text, and nothing in those that a longer one had."""
    return {**{key: "" for key in before if key.startswith(prefix)}, **parts}


def _figures(data: StudyData) -> Iterator[tuple[str, go.Figure]]:
    """The three, by names that stay."""
    yield "front", front.of_study(data)[0]
    yield "layer-map", layer_map.of_study(data)[0]
    yield "hypervolume", hypervolume.of_study(data, compact=True)[0]


def study_note(study: Study, members: Sequence[Measurement], tied: Ties | None) -> str:
    """What a study is about, its front, and how to export a model of it, in Markdown."""
    spec, base = study.spec, study.baseline
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
    }
    letters = tied.letters if tied else {}
    rows = [
        f"| {m.trial} | {m.accuracy:.4f} ({m.accuracy_low:.4f} to {m.accuracy_high:.4f}) "
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
            "Latency and size are ratios to the base; below 1 is better. "
            + (tied.words if tied else ""),
            "",
            f"| trial | {spec.metric} | ties | latency | size |",
            "|--:|--:|---|--:|--:|",
            *rows,
            "",
            "## Export one of them",
            "",
            f"    {export_command(study, 'N')}",
            "",
        ]
    )


def trial_note(study: Study, member: Measurement, tables: Tables, params: Mapping[str, int]) -> str:
    """What a front member keeps of each layer, and what the cuts were worth, in Markdown."""
    assert member.trial is not None
    names = [
        name
        for name in next(iter(member.choices.values()))
        if any(
            kept[name] is not None for m in (member, study.baseline) for kept in m.choices.values()
        )
    ]
    cuts = list(cuts_of(study, member, tables, params))
    shown = worth_headings(cuts)
    rows = [
        [
            layer,
            *("all" if kept[name] is None else str(kept[name]) for name in names),
            *(worth([cut for cut in cuts if cut.layer == layer], heading) for heading in shown),
        ]
        for layer, kept in member.choices.items()
    ]
    return "\n".join(
        [
            f"{study.spec.metric} **{member.accuracy:.4f}** ({member.accuracy_low:.4f} to "
            f"{member.accuracy_high:.4f}), latency **{_ratio(member.latency_ratio)}** and size "
            f"**{member.size_ratio:.3f}** of the base, {member.parameters:,} parameters.",
            "",
            f"| {' | '.join(['layer', *names, *shown])} |",
            f"|---|{'--:|' * (len(names) + len(shown))}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"    {export_command(study, member.trial)}",
            "",
        ]
    )


def serve(
    storage: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    password: str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve Optuna Dashboard on a database until interrupted.

    It can delete studies, so without a ``password`` it is served on this machine's loopback only.
    A password is asked for on every host, and goes over plain HTTP. ``on_ready`` is told the
    address once the port is open; port 0 takes any free one. Raises UsageError for another host
    without a password, one that is not 8 to 256 printable characters, a port that is taken or a
    database that cannot be opened.
    """
    if password is not None:
        check_password(password)
    elif host not in LOOPBACK:
        raise UsageError(
            f"Optuna Dashboard can delete studies, so listening on {host} needs a password, from"
            " --password-file or the environment variable AXSEARCH_DASHBOARD_PASSWORD."
        )
    with closing(open_database(storage)) as database:
        app: WSGIApplication = wsgi(database.storage, artifact_store=ArtifactStore(database.engine))
        app = _Styled(app)
        if password is not None:
            app = Login(app, password)
        app = Guard(app, loopback_only=password is None)
        # It logs each request that it cannot read. The dashboard logs its own errors.
        logging.getLogger("waitress").setLevel(logging.CRITICAL)
        channels: dict[int, Any] = {}
        server = create_server(app, map=channels, sockets=[_listen(host, port)], **SERVER)
        try:
            with suppress(KeyboardInterrupt):
                if on_ready is not None:
                    shown = f"[{host}]" if ":" in host else host
                    on_ready(f"http://{shown}:{server.effective_port}/dashboard/")
                server.run()
        finally:
            server.task_dispatcher.shutdown(timeout=0)  # for an end before it ran
            wasyncore.close_all(channels)


class _Styled:
    """WSGI middleware that adds :data:`STYLE` to pages."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        told: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if dict(headers).get("Content-Type", "").startswith("text/html"):
                told.append((status, headers))
                return None
            return start_response(status, headers, *rest)

        body = self._app(environ, start)
        if not told:
            return body
        page = b"".join(body).replace(b"</head>", STYLE + b"</head>")
        status, headers = told[0]
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(page)))])
        return [page]


def _listen(host: str, port: int) -> socket.socket:
    # Waitress would open one port for each address of a host: of localhost two, which differ for
    # port 0. Here it is one, of IPv4 if there is one.
    try:
        if not 0 <= port <= 65535:
            raise ValueError("it must be 0 to 65535")
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        return socket.create_server((address[0], port), family=family)
    except (OSError, ValueError) as error:
        raise UsageError(f"Port {port} on {host} cannot be used: {cause(error)}.") from None


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
