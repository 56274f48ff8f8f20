from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs
from plotly import io
from sqlalchemy import text

import axsearch
from axsearch import Study, UsageError, serve
from axsearch.reporting.dashboard.serving import annotate, is_due
from axsearch.reporting.explanation import in_markdown
from axsearch.running.trial_loop import TrialLoop
from axsearch.store.database import open_database
from axsearch.store.studies import change_attributes
from tests.conftest import copied


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    open_database(url, create=True).close()
    return url


def opened(storage: str, host: str, port: int = 0, password: str | None = None) -> str:
    """The address that a dashboard is opened on, stopped before it answers anything."""
    told = []

    def stop(address: str) -> None:
        told.append(address)
        raise KeyboardInterrupt

    serve(storage, host, port, password=password, on_ready=stop)
    return told[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_needs_no_password(storage: str, host: str) -> None:
    address = re.fullmatch(rf"http://{host}:(\d+)/dashboard/", opened(storage, host))
    assert address is not None
    assert int(address[1]) > 0
    assert opened(storage, host, int(address[1])) == address[0]  # the port was closed again


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "127.0.0.2", "gpu.example"])
def test_another_host_needs_a_password(storage: str, host: str) -> None:
    with pytest.raises(UsageError, match="needs a password"):
        opened(storage, host)


def test_with_a_password_it_may_be_another_host(storage: str) -> None:
    assert opened(storage, "127.0.0.2", password="correct horse").startswith("http://127.0.0.2:")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
@pytest.mark.parametrize("password", ["", "1234567"])
def test_a_weak_password_is_refused_on_every_host(storage: str, host: str, password: str) -> None:
    with pytest.raises(UsageError, match="8 to 256"):
        opened(storage, host, password=password)


def test_a_port_that_cannot_be_had_is_told(storage: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} on 127.0.0.1 cannot be used: .*in use"):
            opened(storage, "127.0.0.1", port)
    for port in (99999, -1):
        with pytest.raises(UsageError, match=f"Port {port} on localhost cannot be used: .*65535"):
            opened(storage, "localhost", port)


@pytest.mark.parametrize("host", ["", "no host", "x" * 100, "256.1.1.1"])
def test_a_host_that_is_none_is_told(storage: str, host: str) -> None:
    with pytest.raises(UsageError, match=f"on {host} cannot be used"):
        opened(storage, host, password="correct horse")


IDS = {"axsearch-front", "axsearch-layer-map", "axsearch-hypervolume"}


@pytest.fixture
def study(tiny_study: tuple[str, str], tmp_path: Path) -> Study:
    return Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])


def attributes(study: Study) -> dict[str, object]:
    return study.database.storage.get_study_system_attrs(study.id)


def note(study: Study, trial: int | None = None) -> str:
    number = None if trial is None else study.frozen([trial])[trial]._trial_id
    return str(get_note_from_system_attrs(attributes(study), number)["body"])


def test_the_studys_note_says_what_it_is_about_and_how_to_export(study: Study) -> None:
    said, base = note(study), study.baseline
    assert f"| base | accuracy {base.accuracy:.4f} ({base.accuracy_low:.4f} to" in said
    assert f"| machine | {study.spec.machine} |" in said
    assert f"| model | {in_markdown(study.model_name)}, {base.parameters:,} parameters" in said
    assert f"| task | text-classification, accuracy, on {in_markdown(study.data_name)} |" in said
    assert "| latency | batches of 4, the examples at their own lengths, 1 thread, cpu" in said
    assert "axsearch export --storage URL --study tiny --trial N --format hf" in said
    for member in study.front():
        ratios = f"{member.latency_ratio:.3f} | {member.size_ratio:.3f} |"
        assert re.search(rf"\| {member.trial} \| {member.accuracy:.4f} .*{re.escape(ratios)}", said)


def test_the_note_of_each_front_trial_says_what_was_cut(study: Study) -> None:
    for member in study.front():
        said = note(study, member.trial)
        assert f"**{member.accuracy:.4f}** ({member.accuracy_low:.4f} to" in said
        assert (
            f"latency **{member.latency_ratio:.3f}** and size **{member.size_ratio:.3f}**" in said
        )
        assert f"--trial {member.trial} --format hf --out trial-{member.trial}" in said
        for layer, kept in member.choices.items():
            assert re.search(rf"\| {layer} \|.* {kept['ffn']} \|", said)
    others = {t.number for t in study.optuna.trials} - {m.trial for m in study.front()}
    assert any(note(study, number) == "" for number in others)


def test_a_text_that_became_shorter_leaves_nothing_behind(study: Study) -> None:
    engine = study.database.engine
    prefix = "dashboard:plot_data:axsearch-front:"
    change_attributes(engine, study.id, lambda before: {f"{prefix}{n}": "x" for n in range(9)})
    annotate(study)
    assert set(get_plotly_graph_objects(attributes(study))) == IDS
    io.from_json(get_plotly_graph_objects(attributes(study))["axsearch-front"])


@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
def test_two_that_write_at_once_leave_the_text_of_one(
    server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if server == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    with closing(open_database(url, create=True)) as database:
        number = database.storage.create_new_study([StudyDirection.MINIMIZE], "s")

        def write(letter: str, parts: int) -> None:
            for _ in range(20):
                change_attributes(
                    database.engine,
                    number,
                    lambda before: {
                        **dict.fromkeys(before, ""),
                        **{f"part{n}": letter for n in range(parts)},
                    },
                )

        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(write, *given) for given in (("a", 9), ("b", 3))]:
                done.result()
        left = database.storage.get_study_system_attrs(number)
        assert "".join(left[f"part{n}"] for n in range(9)) in ("a" * 9, "b" * 3)


def test_of_a_study_that_is_gone_nothing_is_written(storage: str) -> None:
    with closing(open_database(storage)) as database:
        change_attributes(database.engine, 7, lambda before: {"a": "b"})
        with database.engine.connect() as connection:
            assert (
                connection.execute(text("SELECT count(*) FROM study_system_attributes")).scalar()
                == 0
            )


def test_three_figures_under_ids_that_stay(study: Study) -> None:
    for _ in range(2):
        figures = get_plotly_graph_objects(attributes(study))
        assert set(figures) == IDS
        drawn = {name: io.from_json(text) for name, text in figures.items()}
        front = drawn["axsearch-front"]
        shown = {int(c[0]) for t in front.data if t.name.startswith("front") for c in t.customdata}
        assert shown == {m.trial for m in study.front()}
        annotate(study)


def test_what_has_not_changed_is_not_written_again(study: Study) -> None:
    annotate(study)
    before = attributes(study)
    annotate(study)
    assert attributes(study) == before  # a note's version grows when it is written


@pytest.mark.parametrize(
    ("count", "due"),
    [(1, False), (20, True), (30, False), (200, True), (220, False), (300, True), (2500, True)],
)
def test_how_often_it_is_brought_up_to_date(count: int, due: bool) -> None:
    assert is_due(count) == due


def test_a_running_search_keeps_it_up_to_date(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(study: Study) -> None:
        counts.append(study.count)
        annotate(study)

    search(monkeypatch, counted, base_dir, data_dir, tmp_path, trials=6)
    assert counts == [3, 6, 6]  # every third model, and at the end when the front was timed


def test_a_model_that_is_known_already_is_no_reason_to_draw_again(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = TrialLoop.run

    def repeated(loop: TrialLoop) -> None:
        told = loop.on_trial
        assert told is not None
        loop.on_trial = lambda count: [told(count) for _ in range(3)]  # as if proposed thrice
        real(loop)

    monkeypatch.setattr(TrialLoop, "run", repeated)
    search(
        monkeypatch,
        lambda study: counts.append(study.count),
        base_dir,
        data_dir,
        tmp_path,
        trials=6,
    )
    assert counts == [3, 6, 6]


def test_what_cannot_be_drawn_ends_no_search(
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(study: Study) -> None:
        raise ZeroDivisionError("division by zero")

    study = search(monkeypatch, broken, base_dir, data_dir, tmp_path, trials=3)
    assert study.count == 3
    assert "could not be brought up to date: ZeroDivisionError: division" in capsys.readouterr().err


def search(
    monkeypatch: pytest.MonkeyPatch,
    annotate: Callable[[Study], None],
    base_dir: Path,
    data_dir: Path,
    folder: Path,
    *,
    trials: int,
) -> Study:
    monkeypatch.setattr("axsearch.running.worker.annotate", annotate)
    monkeypatch.setattr("axsearch.running.worker.is_due", lambda count: count % 3 == 0)
    return axsearch.search(
        str(base_dir), str(data_dir), storage=f"sqlite:///{folder / 'new.db'}", study="new",
        trials=trials, objectives=("accuracy", "size"), staged=False,
    )  # fmt: skip
