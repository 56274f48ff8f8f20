from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest

from axsearch import Study, search
from axsearch.cli import main
from axsearch.cli.commands import Commands
from axsearch.cli.output import numbers, stdout
from axsearch.export import hf
from axsearch.export.manifest import Manifest
from axsearch.store.attributes import DIVERGENCE_ATTR
from axsearch.store.database import open_database
from axsearch.testing import processes
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.processes import Process
from axsearch.testing.text import reviews, write_csv
from tests.common_fixtures import copied

SPEED = ("--batch-size", "4", "--threads", "1")


class Done(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["axsearch", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        captured = capfd.readouterr()
        return Done(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def where(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`--storage … --study …` of a study with 8 trials, made by the command line itself."""
    storage = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    place = ["--storage", storage, "--study", "tiny"]
    given = ["--model", str(base_dir), "--data", str(data_dir), "--trials", "8"]
    done = processes.run(
        "-m", "axsearch", "search", *given, *place, *SPEED, "--no-staged", check=True
    )
    assert "front of 8 trials" in done.stdout
    assert "trial 8/8" in done.stderr
    assert "trial 8/8" not in done.stdout
    assert "Warning" not in done.stderr
    return place


FIELDS = [
    "trial", "recipe", "accuracy", "accuracy_low", "accuracy_high", "holdout_accuracy",
    "latency_ms", "latency_ratio", "latency_measured", "size_bytes", "size_ratio", "parameters",
    "recovered_from", "choices",
]  # fmt: skip
DROPS = ["expected", "holdout_drop"]
"""What `front` and `pick` have of a model beside its measurement."""


def numbers_of(models: list[dict[str, Any]]) -> set[int]:
    return {m["trial"] for m in models}


def test_front_as_json(run: Run, where: list[str]) -> None:
    done = run("front", *where, "--json")
    assert (done.status, done.err) == (0, "")
    data = json.loads(done.out)
    assert list(data) == [
        "study", "baseline", "front", "ties", "selection_bias", "baselines", "scenario", "machine",
    ]  # fmt: skip
    assert data["baselines"] == []  # of a study that is about PyTorch's float32
    for member in (data["baseline"], *data["front"]):
        assert list(member) == FIELDS + DROPS
        outside = {"stack", "embeddings"}
        assert set(member["choices"]) == {"layer00", "layer01", "layer02", *outside}
        names = {"heads", "ffn", "topk", "ffn_topk", "one_token", "vocabulary"}
        assert all(set(kept) == names for kept in member["choices"].values())
    exact = {**dict.fromkeys(names), "heads": 4, "ffn": 64}
    assert data["baseline"]["choices"]["layer01"] == exact
    assert data["baseline"]["holdout_accuracy"] is None
    assert data["baseline"]["expected"] == {"drop": 0.0, "low": 0.0, "high": 0.0}
    for member in data["front"]:
        own = member["expected"]
        assert own["low"] <= own["drop"] <= own["high"]
        assert member["holdout_drop"] is None


def test_front_as_a_table_and_on_holdout(run: Run, where: list[str]) -> None:
    plain = run("front", *where)
    assert plain.status == 0
    assert "\x1b[" not in plain.out  # no colours where it is piped
    assert "4/64 4/64 4/64" in plain.out
    assert "holdout" not in plain.out.partition("Latency and size")[0]
    opened = run("front", *where, "--holdout", "--json")
    assert opened.status == 0
    data = json.loads(opened.out)
    assert all(0 <= m["holdout_accuracy"] <= 1 for m in (data["baseline"], *data["front"]))
    assert data["ties"]["split"] == "holdout"
    numbers = numbers_of([data["baseline"], *data["front"]])
    assert all(len(group) > 1 and {*group} <= numbers for group in data["ties"]["groups"])
    assert {*data["ties"]["differ_from_base"]} <= numbers - {data["baseline"]["trial"]}
    bias = data["selection_bias"]
    lost = [
        (m["accuracy"] - data["baseline"]["accuracy"])
        - (m["holdout_accuracy"] - data["baseline"]["holdout_accuracy"])
        for m in data["front"]
        if m["trial"] != data["baseline"]["trial"]
    ]
    assert bias["value"] == pytest.approx(sum(lost) / len(lost))
    assert bias["low"] <= bias["value"] <= bias["high"]
    shown = run("front", *where).out
    (heading,) = (line for line in shown.splitlines() if "holdout drop" in line)
    names = [name.strip() for name in heading.strip("┃").split("┃")]
    assert names.index("holdout drop") == names.index("expected drop") + 1
    for member in data["front"]:
        if member["trial"] != data["baseline"]["trial"]:
            drop = data["baseline"]["holdout_accuracy"] - member["holdout_accuracy"]
            assert member["holdout_drop"]["drop"] == pytest.approx(drop)
            drops = [f"{member[of]['drop']:z.4f}" for of in ("expected", "holdout_drop")]
            star = "*" if member["trial"] in data["ties"]["differ_from_base"] else ""
            (row,) = (
                [cell.strip() for cell in line.split("│")[1:]]
                for line in shown.splitlines()
                if re.match(rf"│\s+{member['trial']} │", line)
            )
            assert row[names.index("expected drop") :][:2] == drops
            assert row[names.index("accuracy")] == f"{member['accuracy']:.4f}{star}"
    assert f"overstates these models by {bias['value']:+.4f}" in " ".join(shown.split())
    assert all(f"{m['holdout_accuracy']:.4f}" in shown for m in data["front"])
    differ, of = len(data["ties"]["differ_from_base"]), len(data["front"])
    of -= data["baseline"]["trial"] in numbers_of(data["front"])
    assert (
        f"{differ} of {of} models differ from the base (*), each tested by itself on the" in shown
    )
    assert "holdout split (McNemar's exact test, or the paired interval)" in shown


def test_a_front_without_latencies(
    run: Run, base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    place = ("--storage", f"sqlite:///{tmp_path / 's.db'}", "--study", "small")
    given = ("--model", base_dir, "--data", data_dir, "--objectives", "accuracy,size")
    done = run("search", *given, *place, "--trials", "3", "--no-staged")
    (header,) = (line for line in done.out.splitlines() if "accuracy" in line)
    names = [name.strip() for name in header.strip("┃").split("┃")]
    assert "latency" not in names
    front = json.loads(run("front", *place, "--json").out)["front"]
    sizes = [
        line.split("│")[1 + names.index("size")].strip()
        for line in done.out.splitlines()
        if line.startswith("│") and line.split("│")[1].strip().isdecimal()
    ]
    assert sorted(sizes) == sorted(f"{m['size_ratio']:.3f}" for m in front)


def test_the_front_in_a_terminal_asks_what_to_explain(where: list[str]) -> None:
    script = f"""
import sys
from axsearch.cli import main
from axsearch.cli.output import numbers, stdout
from axsearch.export import hf
from axsearch.export.manifest import Manifest
from axsearch.store.attributes import DIVERGENCE_ATTR
from axsearch.store.database import open_database
sys.argv = ["axsearch", "front", *{where!r}]
main()
"""
    keys, screen = b"size\n999\nx\n4\n\x04", b""  # the last is Ctrl-D
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("NO_COLOR", None)
        os.environ["COLUMNS"] = "80"
        os.execv(sys.executable, [sys.executable, "-c", script])
    while True:
        if not select.select([terminal], [], [], 60)[0]:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(screen)
        try:
            read = os.read(terminal, 65536)
        except OSError:  # how the end of a terminal shows itself
            break
        screen += read
        if screen.endswith(b"quits): ") and keys:
            line, end, keys = keys.partition(b"\n")
            os.write(terminal, line + end)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = screen.decode()
    assert "\x1b[" in text  # bold, in a terminal
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.partition("Trial to explain")[0]  # all fits
    assert text.count("front of 8 trials") == 2
    assert "no finished trial 999" in text
    assert "Trial 4 has" in text
    assert "axsearch export --storage" in text


def test_pick(run: Run, where: list[str]) -> None:
    done = run("pick", *where, "--max-drop", "0.2", "--by", "size", "--json")
    picked = json.loads(done.out)
    assert list(picked) == FIELDS + DROPS
    assert picked["expected"]["drop"] <= 0.2
    assert 0.5 <= picked["expected"]["probability"] <= 1
    spoken = run("pick", *where, "--max-drop", "0.2", "--by", "size")
    assert f"corrected for the choice: {picked['expected']['drop']:z.4f} (" in spoken.out
    assert "The drop is at most 0.2 with a probability of" in spoken.out
    assert "tied" not in spoken.out
    sure = run("pick", *where, "--max-drop", "0.2", "--by", "size", "--confidence", "0.9", "--json")
    assert json.loads(sure.out)["expected"]["probability"] >= 0.9
    doubtful = run("pick", *where, "--max-drop", "0.0001", "--confidence", "0.999999")
    assert doubtful.status == 2
    assert "--max-drop 0.0001" in doubtful.err
    assert run("pick", *where, "--knee", "--confidence", "0.9").status == 2
    assert run("pick", *where, "--max-size-ratio", "1", "--confidence", "0.9").status == 2
    spoken = run("pick", *where, "--knee")
    assert re.search(r"axsearch export --storage sqlite:\S+ --study tiny --trial \d+", spoken.out)
    assert run("pick", *where).status == 2
    assert run("pick", *where, "--max-drop", "-3").status == 2
    assert run("pick", *where, "--knee", "--by", "size").status == 2
    assert run("pick", *where, "--max-drop", "1", "--by", "speed").status == 2
    front = json.loads(run("front", *where, "--json").out)["front"]
    limit = sorted(m["latency_ratio"] for m in front)[len(front) // 2]
    given = ("--max-latency-ratio", limit, "--by", "accuracy")
    chosen = json.loads(run("pick", *where, *given, "--json").out)
    within = [m for m in front if m["latency_ratio"] <= limit]
    assert chosen["accuracy"] == max(m["accuracy"] for m in within)
    best = [m for m in within if m["accuracy"] == chosen["accuracy"]]
    assert chosen["size_bytes"] == min(m["size_bytes"] for m in best)


def test_explain_names_what_went_and_compares_pair_by_pair(run: Run, where: list[str]) -> None:
    done = run("explain", *where, "--trial", "7")
    assert done.status == 0
    assert "fewer than the base" in done.out
    assert re.search(r"Of 80 examples it answers \d+ better than the base and \d+ worse", done.out)
    assert re.search(r"axsearch export --storage sqlite:\S+ --study tiny --trial 7", done.out)
    data = json.loads(run("explain", *where, "--trial", "7", "--json").out)
    assert data["model"]["trial"] == 7
    assert data["sentences"] == done.out.splitlines()[: len(data["sentences"])]
    assert data["cuts"]
    for cut in data["cuts"]:
        whole = cut["block"] in ("layer", cut["layer"])  # such as what one_token does to the stack
        name = cut["layer"] if whole else f"{cut['layer']} {cut['block']}"
        worth = [f"{cut['damage']:.4f}", f"{cut['time']:.1%}", f"{cut['size']:.1%}"]
        row = r" │ +".join(map(re.escape, worth))
        assert re.search(rf"│ {name} +│ {re.escape(cut['kept'])} +│ +{row} │", done.out)


def test_remeasure_ranks_for_another_scenario(run: Run, where: list[str]) -> None:
    given = ("--batch-size", "2", "--sequence-length", "16")
    done = run("remeasure", *where, *given)
    assert done.status == 0
    assert "batches of 2, 16 tokens" in " ".join(done.out.split())
    data = json.loads(run("remeasure", *where, *given, "--json").out)
    assert run("remeasure", *where, "--batch-size", "0").status == 2
    assert data["scenario"]["batch_size"] == 2
    for rank, member in enumerate(data["front"], 1):
        assert list(member) == FIELDS
        assert re.search(rf"│ +{rank} │ +{member['trial']} │ ", done.out)
        assert member["latency_ratio"] == data["latencies"][str(member["trial"])]["ratio"]


@pytest.fixture(scope="module")
def damaged(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`--storage … --study …` of 8 trials whose models are the same ones on every machine, since
    units make their latencies: what training does to them is the same as well.
    """
    storage = f"sqlite:///{tmp_path_factory.mktemp('damaged') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)
        search(
            str(base_dir), str(data_dir), storage=storage, study="tiny", trials=8, batch_size=4,
            threads=1, approximations=("heads", "ffn", "layer"), compensation="none"
        ).database.close()  # fmt: skip
    return ["--storage", storage, "--study", "tiny"]


def furthest(place: list[str]) -> int:
    """The trial of the model that is furthest from the base."""
    with closing(open_database(place[1])) as database:
        trials = Study.of(database, place[3]).optuna.get_trials()
    return max(trials, key=lambda trial: trial.user_attrs.get(DIVERGENCE_ATTR, 0.0)).number


def test_recover_trains_a_model_further(run: Run, damaged: list[str], tmp_path: Path) -> None:
    place = ["--storage", copied(damaged[1], tmp_path), *damaged[2:]]
    refused = run("recover", *place)
    assert refused.status == 2
    assert "--trial, --front, --candidates and --max-drop" in refused.err
    number = furthest(place)
    given = ["--trial", number, "--epochs", 2, "--learning-rate", "2e-3"]
    done = run("recover", *place, *given)
    assert done.status == 0, done.err
    assert f"Trial {number} recovered as trial" in done.err
    assert "recovered models" in done.out
    data = json.loads(run("recover", *place, *given, "--json").out)
    (member,) = data["recovered"]
    assert [*member] == [*FIELDS, *DROPS, "seconds"]
    assert member["recovered_from"] == number
    assert run("explain", *place, "--trial", member["trial"]).status == 0
    doctor = run("doctor", *place[:2]).out
    assert doctor.startswith("ok ")  # no markup
    assert "recovered weights" in doctor


def test_ctrl_c_keeps_the_best_of_a_training(run: Run, damaged: list[str], tmp_path: Path) -> None:
    place = ["--storage", copied(damaged[1], tmp_path), *damaged[2:]]
    number = furthest(place)
    given = ["--trial", str(number), "--epochs", "40", "--learning-rate", "2e-3"]
    with Process("-m", "axsearch", "recover", *place, *given) as training:
        for line in training.stderr:
            if line.startswith(f"trial {number}: step"):
                break
        training.send_signal(signal.SIGINT)
        try:
            out, err = training.communicate(timeout=60)
        finally:
            training.kill()
    assert training.returncode == 1
    assert out == ""
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("axsearch: stopped; recovered models are kept")
    shown = run("explain", *place, "--trial", 8).out
    assert f"trained further than those of trial {number}" in shown


def test_quiet_says_nothing_but_errors(
    run: Run, where: list[str], base_dir: Path, data_dir: Path
) -> None:
    given = ("search", "--model", base_dir, "--data", data_dir, *where, *SPEED, "--no-staged")
    assert "trial 9/9" in run(*given, "--trials", "9").err
    quiet = run(*given, "--trials", "10", "--quiet", "--json")
    assert (quiet.status, quiet.err) == (0, "")
    assert json.loads(quiet.out)["front"]
    refused = run("front", "--storage", where[1], "--study", "none", "--quiet")
    assert refused.status == 2
    assert "it holds tiny" in refused.err
    assert "AXSEARCH_QUIET" not in os.environ
    assert "already has 10" in run(*given, "--trials", "10").err  # it is over with that command


def test_colours_are_off_where_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    table = numbers({"a": ["1"]}, stdout(), title="b")
    table.add_row("1")

    def printed() -> str:
        console = stdout()
        with console.capture() as capture:
            console.print(table, style="red")
        return capture.get()

    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in printed()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str) -> None:
    words = {
        "bash": "axsearch pick --max",
        "zsh": "axsearch pick --max",
        "fish": "axsearch pick --max",
    }
    environment = {
        **os.environ,
        "_AXSEARCH_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": words[shell],
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": words[shell],
        "COMP_CWORD": "2",
    }
    done = processes.run(Path(sys.executable).with_name("axsearch"), env=environment)
    assert "--max-drop" in done.stdout
    assert "--max-latency-ratio" in done.stdout


def test_an_export_that_was_changed_or_is_of_another_database(
    run: Run, where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "run_check", lambda *_: 0.0)
    folder = tmp_path / "small"
    assert run("export", *where, "--trial", "4", "--out", folder).status == 0
    (folder / "README.md").write_text("Another card\n")
    found = run("verify", folder, *where)
    assert found.status == 0
    assert "README.md was edited since; recorded as trial 4 of the study " in found.out
    data = json.loads(run("verify", folder, *where, "--json").out)
    assert (data["card_edited"], data["trial"]) == (True, 4)
    refused = run("verify", folder, *where[:2], "--study", "another")
    assert refused.status == 2
    assert "was exported from the study" in refused.err
    refused = run("verify", folder, "--study", "another")
    assert (refused.status, "give its --storage too" in refused.err) == (2, True)
    (folder / "axsearch_manifest.json").unlink()
    Manifest.of(folder, "hf").write(folder)
    assert run("verify", folder).status == 0
    refused = run("verify", folder, *where)
    assert refused.status == 2
    assert "The database has no record of" in refused.err


def test_export_and_verify_and_report(run: Run, where: list[str], tmp_path: Path) -> None:
    folder, page = tmp_path / "small", tmp_path / "report.html"
    done = run("export", *where, "--trial", "4", "--format", "hf", "--out", folder)
    assert (done.status, done.out.strip()) == (0, str(folder))
    told = json.loads(run("export", *where, "--trial", "4", "--out", tmp_path / "x", "--json").out)
    assert (told["path"], told["format"]) == (str(tmp_path / "x"), "hf")
    assert told["trial"] == 4
    verified = run("verify", folder)
    assert verified.status == 0
    assert "as written" in verified.out
    data = json.loads(run("verify", folder, "--json").out)
    assert data["format"] == "hf"
    assert data["difference"] <= 1e-5
    assert f"{data['files']} files, {data['size_bytes']:,} bytes" in verified.out
    assert not data["card_edited"]
    assert data["study"] is None
    assert run("export", *where, "--trial", "4", "--out", folder).status == 2
    assert run("report", *where, "--out", page).status == 0
    text = page.read_text()
    assert "Plotly.newPlot" in text
    assert not re.search(r"<script[^>]+src=|<link", text)  # it opens offline
    assert run("report", *where, "--out", tmp_path / "no" / "where.html").status == 2
    text = tmp_path / "report.md"
    assert run("report", *where, "--out", text, "--trial", "7").out.strip() == str(text)
    assert "### Trial 7, as asked for" in text.read_text()
    assert run("report", *where, "--out", page, "--trial", "999").status == 2
    assert run("report", *where, "--out", page, "--format", "pdf").status == 2


def test_search_goes_on_and_refuses_another_model(
    run: Run, where: list[str], base_dir: Path, data_dir: Path
) -> None:
    given = ("search", "--model", base_dir, *where)
    resumed = run(*given, "--data", data_dir, "--trials", "8", *SPEED)
    assert resumed.status == 0
    assert re.search(r"already has \d+ trials", resumed.err)
    other = run(*given, "--data", data_dir, "--trials", "9", "--batch-size", "5")
    assert other.status == 2
    assert "another scenario" in other.err


def test_wrong_use_is_one_sentence_and_status_2(
    run: Run, where: list[str], base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    constant, unlabelled, six = tmp_path / "constant", tmp_path / "unlabelled", tmp_path / "six"
    for folder in (constant, unlabelled, six):
        folder.mkdir()
    write_csv(constant / "train.csv", [(text, 1) for text, _ in reviews(40, 0)], ("text", "label"))
    write_csv(unlabelled / "train.csv", list(reviews(40, 0)), ("text", "verdict"))
    rows = [(text, number % 6) for number, (text, _) in enumerate(reviews(60, 0))]
    write_csv(six / "train.csv", list(rows), ("text", "label"))
    gpt = tmp_path / "gpt"
    gpt.mkdir()
    (gpt / "config.json").write_text('{"model_type": "gpt_neox"}')
    new = ("--storage", f"sqlite:///{tmp_path / 'new.db'}", "--study", "new")
    model, data = ("--model", base_dir), ("--data", data_dir)
    cases: list[tuple[tuple[object, ...], str]] = [
        (("search", "--model", "/no/where", *data, *new, "--trials", 5), "/no/where"),
        (("search", "--model", gpt, *data, *new, "--trials", 5), "axsearch supports albert, bert"),
        (("search", *model, "--data", tmp_path, *new, "--trials", 5), "no file for training"),
        (("search", *model, "--data", unlabelled, *new, "--trials", 5), "'label'"),
        (("search", *model, "--data", constant, *new, "--trials", 5), "constant"),
        (("search", *model, "--data", six, *new, "--trials", 5), "do not fit"),
        (("search", *model, *data, *new, "--trials", 0), "--trials"),
        (("search", *model, *data, *new[:3], "a\nb", "--trials", 1), "printable"),
        (("search", *model, *data, *new, "--trials", 5, "--workers", 0), "--workers"),
        (("search", *model, *data, *new, "--trials", 5, "--approximations", "no"), "'no'"),
        (("search", *model, *data, *new, "--trials", 5, "--freeze", "layer09"), "layer09"),
        (("search", *model, *data, *new, "--trials", 5, "--compensation", "x"), "'x'"),
        (("search", *model, *data, *new, "--trials", 5, "--device", "tpu"), "tpu"),
        (("search", *model, *data, "--storage", "x", "--study", "n", "--trials", 5), "URL"),
        (("front", "--storage", f"sqlite:///{tmp_path / 'no.db'}", "--study", "n"), "no.db"),
        (("front", *where[:2], "--study", "none"), "it holds tiny"),
        (("explain", *where, "--trial", 999), "999"),
        (("export", *where, "--trial", 999, "--out", tmp_path / "x"), "999"),
        (
            ("export", *where, "--trial", 1, "--format", "gguf", "--out", tmp_path / "x"),
            "hf, onnx, openvino",
        ),
        (("export", *where, "--trial", 1, "--out", constant), "not empty"),
        (("verify", tmp_path), "not an export"),
    ]
    for arguments, word in cases:
        done = run(*arguments)
        assert (done.status, done.out) == (2, ""), (arguments, done)
        assert word in done.err, (arguments, done)
        assert done.err.startswith("axsearch: "), done
        assert done.err.count("\n") == 1, done
    assert not (tmp_path / "x").exists()


def test_what_nobody_foresaw_is_a_sentence_too(
    run: Run, where: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axsearch.cli.front.print_json", lambda study: 1 / 0)
    done = run("front", *where, "--json")
    assert done.status == 1
    assert "ZeroDivisionError" in done.err
    assert "Traceback" not in done.err


def test_the_storage_may_come_from_the_environment(
    run: Run, where: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXSEARCH_STORAGE", where[1])
    assert run("front", *where[2:], "--json").status == 0


def test_every_command_has_help_with_an_example_and_stands_in_the_readme(run: Run) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    commands = Commands()
    assert len(commands) == 13
    listed = " ".join(run("--help").out.split())
    for command, summary in commands.summaries.items():
        assert f" {command} {summary}" in listed
        done = run(command, "--help")
        assert summary in " ".join(done.out.split())
        assert done.status == 0
        assert re.search(rf"Examples?: axsearch {command} ", " ".join(done.out.split()))
        assert f"axsearch {command} " in readme


def test_ctrl_c_keeps_what_was_finished(
    base_dir: Path, data_dir: Path, tmp_path: Path, run: Run
) -> None:
    where = ["--storage", f"sqlite:///{tmp_path / 's.db'}", "--study", "s"]
    given = ["search", "--model", str(base_dir), "--data", str(data_dir), *where]
    with Process("-m", "axsearch", *given, "--trials", "500", "--batch-size", "4") as search:
        for line in search.stderr:
            if line.startswith("trial 4/"):
                break
        search.send_signal(signal.SIGINT)
        try:
            out, err = search.communicate(timeout=60)
        finally:
            search.kill()
    assert search.returncode == 1
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("axsearch: stopped; finished trials are kept")
    assert "Traceback" not in err
    front = json.loads(run("front", *where, "--json").out)
    assert front["baseline"]["trial"] == 0


def test_the_dashboard_serves_the_study_and_its_notes(where: list[str]) -> None:
    with Process("-m", "axsearch", "dashboard", *where[:2], "--port", "0") as server:
        address = re.search(r"http://[\d.]+:\d+", server.stderr.readline())
        assert address is not None
        try:
            studies = json.load(_get(f"{address[0]}/api/studies"))["study_summaries"]
            assert [study["study_name"] for study in studies] == ["tiny"]
            number = studies[0]["study_id"]
            detail = json.load(_get(f"{address[0]}/api/studies/{number}?after=0"))
            assert detail["objective_names"] == ["accuracy", "latency_ratio", "size_ratio"]
            assert "axsearch export" in detail["note"]["body"]
            notes = [t["note"]["body"] for t in detail["trials"] if t["note"]["body"]]
            assert notes
            assert all("| layer02 |" in note for note in notes)
            with pytest.raises(HTTPError) as refused:
                urlopen(Request(f"{address[0]}/api/studies", headers={"Host": "evil.example"}))
            assert refused.value.code == 403
            refused.value.close()
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()


def test_the_dashboard_on_all_addresses_asks_for_the_password(
    where: list[str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("correct horse\n")
    (tmp_path / "password").chmod(0o600)
    command = ["-m", "axsearch", "dashboard", *where[:2], "--port", "0", "--host", "0.0.0.0"]
    with Process(*command, "--password-file", tmp_path / "password") as server:
        port = re.search(r"http://0\.0\.0\.0:(\d+)/dashboard/", server.stderr.readline())
        assert port is not None
        address = f"http://127.0.0.1:{port[1]}"
        try:
            with pytest.raises(HTTPError) as refused:
                _get(f"{address}/api/studies")
            assert refused.value.code == 401
            refused.value.close()
            with _get(f"{address}/dashboard/") as page:
                assert page.url == f"{address}/login"
                assert b"<title>axsearch</title>" in page.read()
                assert page.headers["X-Frame-Options"] == "DENY"
                assert page.headers["Server"] is None
            browser = build_opener(HTTPCookieProcessor())
            with pytest.raises(HTTPError) as refused:
                browser.open(f"{address}/login", b"password=incorrect+horse", timeout=10)
            assert refused.value.code == 403
            refused.value.close()
            with browser.open(f"{address}/login", b"password=correct+horse", timeout=10) as page:
                assert page.url == f"{address}/dashboard/"
                assert b"Optuna Dashboard" in page.read()
                policy = page.headers["Content-Security-Policy"]  # Optuna Dashboard's own
                assert "script-src 'self' 'unsafe-eval'" in policy
                assert "default-src 'self'" in policy
            with browser.open(f"{address}/api/studies", timeout=10) as reply:
                studies = json.load(reply)["study_summaries"]
            assert [study["study_name"] for study in studies] == ["tiny"]
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0
            assert server.stderr.read() == ""
        finally:
            server.kill()


def test_the_dashboard_is_not_opened_without_a_good_password(
    run: Run, where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "AXSEARCH_DASHBOARD_PASSWORD"
    monkeypatch.delenv(variable, raising=False)
    everywhere = ("dashboard", *where[:2], "--port", "0", "--host", "0.0.0.0")

    def refused(*arguments: object) -> str:
        done = run(*arguments)
        assert (done.status, done.out) == (2, ""), done
        assert done.err.startswith("axsearch: "), done
        assert done.err.count("\n") == 1, done
        assert "secret" not in done.err
        return done.err

    without = refused(*everywhere)
    assert "0.0.0.0" in without
    assert "--password-file" in without
    assert variable in without
    for password in ("", "secret"):
        monkeypatch.setenv(variable, password)
        for command in (everywhere, ("dashboard", *where[:2], "--port", "0")):
            assert "8 to 256 printable characters" in refused(*command)
    monkeypatch.setenv(variable, "secret, long enough")
    file = tmp_path / "password"
    given = (*everywhere, "--password-file", file)
    assert "cannot be read" in refused(*given)
    file.write_text("secret, long enough\n")
    file.chmod(0o644)
    assert f"chmod 600 {file}" in refused(*given)
    file.write_text("secret\n")
    file.chmod(0o600)
    assert "8 to 256 printable characters" in refused(*given)


def _get(address: str):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while True:
        try:
            return urlopen(address, timeout=10)
        except HTTPError:
            raise
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_an_error_names_options_not_arguments(run: Run, where: list[str], tmp_path: Path) -> None:
    for given, words in [
        (("pick", *where), "--knee or one of --max-drop, --max-latency-ratio, --max-size-ratio"),
        (("pick", *where, "--max-drop", "-3"), "keeps --max-drop -3: the smallest expected drop"),
        (("pick", *where, "--knee", "--by", "size"), "--knee chooses by all objectives"),
        (("worker", *where, "--cpus-per-worker", 0), "--cpus-per-worker must be at least 1"),
        (("remeasure", *where, "--sequence-length", 65), "--sequence-length 65 is above"),
        (("export", *where, "--trial", 1, "--out", tmp_path.parent), "give another --out."),
    ]:
        done = run(*given)
        assert (done.status, done.out) == (2, ""), done
        assert words in done.err
