"""Notes for Optuna Dashboard, and serving it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
from optuna_dashboard import save_note, wsgi

from axsearch.errors import UsageError
from axsearch.measurement import Measurement
from axsearch.store.database import open_database
from axsearch.study import Study

LOOPBACK = ("127.0.0.1", "localhost")


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
        f"On the front when the study had {len(study.measurements)} trials.\n\n"
        f"{study.spec.metric} **{member.accuracy:.4f}** "
        f"({member.accuracy_low:.4f} to {member.accuracy_high:.4f}), latency "
        f"**{_ratio(member.latency_ratio)}** and size **{member.size_ratio:.3f}** of the base, "
        f"{member.parameters:,} parameters.\n\n{header}\n{rows}\n\n"
        f"    axsearch export --storage URL --study {study.name} --trial {member.trial} "
        "--format hf --out DIR\n"
    )


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are not the user's news."""


def serve(
    storage: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve Optuna Dashboard on a database until interrupted.

    It has no login and can delete studies, so it listens on this machine's loopback only.
    ``on_ready`` is told the address once the port is open; port 0 takes any free one. Raises
    UsageError for another host, a port that is taken or a database that cannot be opened.
    """
    if host not in LOOPBACK:
        raise UsageError(
            f"The dashboard has no login and listens on {' or '.join(LOOPBACK)} only, "
            f"not on {host}; reach it from elsewhere through an SSH tunnel."
        )
    database = open_database(storage)
    try:
        server = make_server(host, port, wsgi(database.storage), handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        raise UsageError(f"Port {port} on {host} cannot be used: {error}.") from None
    with server:
        if on_ready is not None:
            on_ready(f"http://{host}:{server.server_port}/dashboard/")
        # Requests run beside the main thread: wsgiref swallows a Ctrl-C that comes during one.
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            while serving.is_alive():  # a signal that another thread is given wakes no plain join
                serving.join(timeout=0.5)
        except KeyboardInterrupt:
            server.shutdown()


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
