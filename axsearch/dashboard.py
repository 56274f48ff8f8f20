"""Notes for Optuna Dashboard, and serving it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import optuna
from optuna_dashboard import save_note, wsgi
from waitress import create_server, wasyncore

from axsearch.errors import UsageError, cause
from axsearch.guard import Guard
from axsearch.login import Login, check_password
from axsearch.measurement import Measurement
from axsearch.store.artifacts import ArtifactStore
from axsearch.store.database import open_database
from axsearch.study import Study

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


def annotate(study: Study) -> None:
    """Write a note on the study and on each trial of its front."""
    spec, base = study.spec, study.baseline
    ids = {trial.number: trial._trial_id for trial in study.optuna.get_trials(deepcopy=False)}
    front = study.front()
    rows = "\n".join(
        f"| {m.trial} | {m.accuracy:.4f} | {_ratio(m.latency_ratio)} | {m.size_ratio:.3f} |"
        for m in front
    )
    limits = [
        f"{name} {value}"
        for name, value in (
            ("at most a drop of", spec.max_drop),
            ("latency ratio at most", spec.max_latency_ratio),
            ("size ratio at most", spec.max_size_ratio),
        )
        if value is not None
    ]
    save_note(
        study.optuna,
        f"# {study.name}\n\nApproximations of `{study.model_name}` on `{study.data_name}`:"
        f" {spec.metric} {base.accuracy:.4f} on the search split, {base.size_bytes / 1e6:.1f} MB."
        f" {'Limits: ' + '; '.join(limits) + '.' if limits else ''}\n\n"
        "Latency and size are ratios to the base; below 1 is better.\n\n"
        f"| trial | {spec.metric} | latency | size |\n|---|---|---|---|\n{rows}\n\n"
        "Export one of them:\n\n"
        f"    axsearch export --storage URL --study {study.name} --trial N --format hf --out DIR\n",
    )
    for member in front:
        assert member.trial is not None
        save_note(optuna.Trial(study.optuna, ids[member.trial]), trial_note(study, member))


def trial_note(study: Study, member: Measurement) -> str:
    """What a front member keeps, in Markdown."""
    names = list(next(iter(member.choices.values())))
    header = f"| layer | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}"
    rows = "\n".join(
        f"| {layer} | {' | '.join('-' if c[n] is None else str(c[n]) for n in names)} |"
        for layer, c in member.choices.items()
    )
    return (
        f"On the front when the study had {study.count} trials.\n\n"
        f"{study.spec.metric} **{member.accuracy:.4f}** "
        f"({member.accuracy_low:.4f} to {member.accuracy_high:.4f}), latency "
        f"**{_ratio(member.latency_ratio)}** and size **{member.size_ratio:.3f}** of the base, "
        f"{member.parameters:,} parameters.\n\n{header}\n{rows}\n\n"
        f"    axsearch export --storage URL --study {study.name} --trial {member.trial} "
        "--format hf --out DIR\n"
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
        app = wsgi(database.storage, artifact_store=ArtifactStore(database.engine))
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
