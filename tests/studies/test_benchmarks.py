"""The benchmarks run, and go on where they were stopped; their figures are not judged here."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from axsearch import search
from axsearch.running.session import work
from axsearch.space.recipe import EXACT
from axsearch.store.database import open_database
from axsearch.testing import processes
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.text import reviews

BENCHMARKS = Path(__file__).parents[2] / "studies" / "benchmarks"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(script: str, *arguments: object) -> None:
    """Run a script in this process: a new one would import torch first."""
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for whoever runs it
        patched.setattr(sys, "argv", [str(BENCHMARKS / script), *map(str, arguments)])
        patched.syspath_prepend(BENCHMARKS)  # what Python does for a script
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")


def run_alone(script: str, *arguments: object) -> None:
    """Run one that measures or starts processes of its own in a new process."""
    processes.run(BENCHMARKS / script, *arguments, check=True, spawns=True)


def test_topk_attention(tmp_path: Path) -> None:
    arguments = (
        "--lengths", 128, "--neurons", 512, "--tokens", 64, "--threads", 1, "--patience", 0,
        "--out", tmp_path,
    )  # fmt: skip
    run_alone("topk_attention.py", *arguments)
    results = tmp_path / "topk_attention.json"
    points = json.loads(results.read_text())["points"]
    contenders = {(point["what"], point["contender"]) for point in points}
    assert {("attention", "topk"), ("attention", "sdpa"), ("ffn", "topk")} <= contenders
    assert all(point["seconds"] > 0 and point["peak_bytes"] >= 0 for point in points)
    assert (tmp_path / "topk_attention.svg").read_text().startswith("<?xml")
    before = results.read_bytes()
    run("topk_attention.py", *arguments)  # nothing is left to be measured
    assert json.loads(results.read_bytes()) == json.loads(before)


def test_vocabulary(spelling_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    run("vocabulary.py", spelling_dir, data_dir, "--out", tmp_path)
    base, first, *_ = rows = json.loads((tmp_path / "vocabulary.json").read_text())
    assert (base["size_ratio"], base["tokens_a_text"]["search"]) == (1, 1)
    assert first["accuracy"] == base["accuracy"]  # texts have none of what is removed first
    tokens, sizes = ([row[name] for row in rows] for name in ("tokens", "size_ratio"))
    assert tokens == sorted(tokens, reverse=True)
    assert sizes == sorted(sizes, reverse=True)
    assert all(row["texts_with_unknown"] == {"search": 0, "holdout": 0} for row in rows)


def test_topk_zero_shot(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    run("topk_zero_shot.py", base_dir, data_dir, "--threads", 1, "--out", tmp_path)
    rows = json.loads((tmp_path / "topk_zero_shot.json").read_text())["rows"]
    assert [row["k"] for row in rows if row["what"] == "FFN"] == [2, 4, 8, 16, 32]
    for row in rows[1:]:
        assert row["low"] <= row["difference"] <= row["high"]


def test_compensation(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    arguments = (base_dir, data_dir, "--recipes", 2, "--threads", 1, "--out", tmp_path)
    run("compensation.py", *arguments)
    results = tmp_path / "compensation.json"
    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == 2 * 2 * 3
    assert {row["compensation"] for row in rows} == {"none", "bias", "least_squares"}
    assert "least_squares" in (tmp_path / "compensation.md").read_text()
    before = results.read_bytes()
    run("compensation.py", *arguments)
    assert results.read_bytes() == before


def test_refit(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    few = ("--parts", "accuracy", "cost", "--holdout", 20, "--threads", 1, "--name", "tiny")
    run("refit.py", base_dir, data_dir, *few, "--out", tmp_path)
    results = tmp_path / "refit_tiny.json"
    rows = json.loads(results.read_text())["rows"]
    found = [(r["way"], r["examples"]) for r in rows if "way" in r]
    sequential = (("sequential", examples) for examples in (256, 512, 2048))
    assert {*found} == {("least_squares", 512), ("outputs alone", 2048), *sequential}
    assert len(found) == 5 * 3
    (cost,) = (row["seconds"] for row in rows if row["part"] == "cost")
    assert all(len(seconds) == 3 for seconds in cost.values())
    before = results.read_bytes()
    run("refit.py", base_dir, data_dir, *few, "--out", tmp_path)
    assert results.read_bytes() == before


def test_fronts(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a clock, on a busy machine, no tiny model may be faster than the base.
    monkeypatch.setattr(MEASURE, table_by_units)
    for module in ("worker", "finishing"):
        monkeypatch.setattr(f"axsearch.running.{module}.time_front", lambda *_: None)
    arguments = (
        base_dir, data_dir, "--cache", tmp_path / "fronts.db", "--seeds", 1, "--most", 8,
        "--threads", 1, "--out", tmp_path,
    )  # fmt: skip
    run("fronts.py", *arguments)
    results = tmp_path / "fronts_movie_reviews.json"
    found = json.loads(results.read_text())
    assert [row["seed"] for row in found["rows"]] == [0, 0, 0]
    old = found["rows"][-1]
    assert found["summary"][old["variant"]] == {
        "seeds": 1, "volume": old["volume"], "of_old": [1.0], "of_old_mean": 1.0,
    }  # fmt: skip
    for row in found["rows"]:
        assert 0 < row["volume"] <= max(point[2] for point in row["front"]) - row["trivial"]
    before = results.read_bytes()
    run("fronts.py", *arguments)  # nothing is left to be searched
    assert results.read_bytes() == before


def test_ranked(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    for module in ("worker", "finishing"):
        monkeypatch.setattr(f"axsearch.running.{module}.time_front", lambda *_: None)
    run(
        "ranked.py", base_dir, data_dir, "--cache", tmp_path / "ranked.db", "--seeds", 1,
        "--trials", 8, "--threads", 1, "--out", tmp_path, "--runtime", "torch",
        "--precision", "bfloat16",
    )  # fmt: skip
    found = json.loads((tmp_path / "ranked_torch_bfloat16.json").read_text())
    (row,) = found["rows"]
    for split in ("search", "holdout"):
        ratio = row["searched"][split] / row["ranked"][split]
        assert found["searched_over_ranked"][split] == [pytest.approx(ratio, abs=1e-4)]
        assert found["means"][split] == found["searched_over_ranked"][split][0]


def test_recovery(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    for module in ("worker", "finishing"):
        monkeypatch.setattr(f"axsearch.running.{module}.time_front", lambda *_: None)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    search(
        str(base_dir), str(data_dir), storage=url, study="reviews", trials=10, batch_size=4,
        threads=1, approximations=("heads", "ffn", "layer"), compensation="none",
    )  # fmt: skip
    given = (
        "recovery.py", base_dir, data_dir, "--storage", url, "--study", "reviews", "--targets",
        "0.3", "--epochs", 1, "--rate", 1e-4, "--threads", 1, "--out", tmp_path, "--name", "tiny",
        "--unlabelled", tmp_path / "more.txt",
    )  # fmt: skip
    (tmp_path / "more.txt").write_text("\n".join(text for text, _ in reviews(300, 9)))
    run(*given)
    found = json.loads((tmp_path / "recovery_tiny.json").read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert list(rows) == [
        "recovered", "outputs", "adapters", "unlabelled", "longer", "layers", "dense", "control"
    ]  # fmt: skip
    assert rows["unlabelled"]["texts"] > rows["recovered"]["texts"] == rows["longer"]["texts"]
    assert rows["longer"]["steps"] > rows["recovered"]["steps"]
    assert {what: row["adapters"] for what, row in rows.items() if row["adapters"]} == {
        "adapters": 16
    }
    assert rows["adapters"]["rate"] == pytest.approx(5e-4)
    assert rows["control"]["recipe"] == EXACT.hash
    for row in found["rows"]:
        for split in ("search", "holdout"):
            own = row[split]
            drop = own["after"]["value"] - own["base"]
            assert own["against_base"]["value"] == pytest.approx(drop)
    assert rows["recovered"]["loss"] < rows["recovered"]["loss_before"]
    assert rows["outputs"]["recipe"] == rows["recovered"]["recipe"]
    assert rows["outputs"]["loss_before"] < rows["recovered"]["loss_before"]  # of outputs
    # One that begins with random weights answers like nobody, so it is far from the base.
    assert rows["dense"]["loss_before"] > rows["recovered"]["loss_before"]
    for what in ("layers", "dense"):
        assert rows[what]["recipe"] != rows["recovered"]["recipe"]
    before = (tmp_path / "recovery_tiny.json").read_bytes()
    run(*given)
    assert (tmp_path / "recovery_tiny.json").read_bytes() == before


def test_a_seed_without_a_volume_has_no_ratio() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(BENCHMARKS)
        module = runpy.run_path(str(BENCHMARKS / "fronts.py"))
    new, *_, old = module["VARIANTS"]
    volumes = ((new, 0, 0.3), (new, 1, 0.2), (old, 0, 0.2), (old, 1, 0.0))
    rows = [{"variant": name, "seed": seed, "volume": own} for name, seed, own in volumes]
    found = module["summary"](rows)
    assert found[new] == {"seeds": 2, "volume": 0.25, "of_old": [1.5], "of_old_mean": 1.5}
    assert found[old] == {"seeds": 2, "volume": 0.1, "of_old": [1.0], "of_old_mean": 1.0}
    assert module["summary"](rows[1::2])[new]["of_old_mean"] is None


def test_the_volume_of_a_front_chooses_nothing_on_the_holdout_split() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(BENCHMARKS)
        module = runpy.run_path(str(BENCHMARKS / "fronts.py"))
    point, volume = module["Point"], module["volume"]
    front = [point(0.2, 0.7, 0.6), point(0.6, 0.8, 0.9), point(0.5, 0.6, 1.0)]
    assert volume(front, 0.5) == pytest.approx(0.4 * 0.1 + 0.4 * 0.4)
    assert volume([*front, point(1.0, 0.9, 0.0)], 0.5) == volume(front, 0.5)
    assert volume([point(1.0, 0.9, 0.9)], 0.5) == 0  # nothing is faster than the base


def test_methods(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    arguments = (
        base_dir, data_dir, "--cache", tmp_path / "methods.db", "--trials", 8, "--greedy", 4,
        "--epsilons", 30.0, "--examples", 16, "--balances", 2, "--most", 40, "--targets", 0.9, 0.7,
        "--threads", 1, "--out", tmp_path,
    )  # fmt: skip
    run("methods.py", *arguments)
    results = tmp_path / "methods_movie_reviews.json"
    rows = json.loads(results.read_text())["rows"]
    methods = ["axsearch", "every other layer", "Kwon et al.", "K-prune", "AxFormer"]
    assert [(row["method"], row["target"]) for row in rows] == [
        ("base", 1.0), *((method, target) for method in methods for target in (0.9, 0.7)),
    ]  # fmt: skip
    for row in rows:
        assert row["holdout"] is None or (0 <= row["holdout"] <= 1 and row["latency"] > 0)
    before = results.read_bytes()
    run("methods.py", *arguments)
    assert results.read_bytes() == before


def test_latency_table(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    few = ("--models", 3, "--pairs", 1, "--seconds", 0, "--threads", 1)
    run("latency_table.py", base_dir, data_dir, *few, "--out", tmp_path)
    found = json.loads((tmp_path / "latency_table.json").read_text())
    assert len(found["models"]) == 3
    assert {"attention heads=0", "ffn ffn=0"} < set(found["of_one_size"])
    assert set(found["of_one_size"]) == {key for key in found["blocks"] if " " in key}
    for model in (*found["models"], *found["of_one_size"].values()):
        assert model["predicted"] > 0
        assert model["measured"] > 0


def test_allocator(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    few = ("--rounds", 2, "--threads", 1, "--batches", "2x8", "--out", tmp_path)
    run_alone("allocator.py", base_dir, data_dir, *few)
    found = json.loads((tmp_path / "allocator.json").read_text())
    assert found["facts"] == {"threads": 1, "rounds": 2}
    (one,) = found["batches"].values()
    assert 0 < one["ratio"]["low"] <= one["ratio"]["median"] <= one["ratio"]["high"]
    assert all(ms > 0 for ms in one["ms"].values())


def test_one_token(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    few = ("--pairs", 3, "--threads", 1, "--layers", 2, "--out", tmp_path)
    run("one_token.py", base_dir, data_dir, *few)
    found = json.loads((tmp_path / "one_token.json").read_text())
    assert len(found["models"]) == 4
    for one in found["models"].values():
        assert 0 < one["low"] <= one["ratio"] <= one["high"]
        assert 0 < one["logits_differ_by"] <= 1e-5


def test_samplers(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    arguments = (
        base_dir, data_dir, "--seeds", 1, "--few", 14, "--many", 4, "--examples", 40,
        "--timed-threads", 1, "--out", tmp_path, "--cache", tmp_path / "cache.db", "--only",
        "auto;kwon;axformer, epsilon 0.1;random",
    )  # fmt: skip
    run("samplers.py", *arguments)
    stored = json.loads((tmp_path / "samplers.json").read_text())
    lengths = {one["contender"]: len(one["trials"]) for one in stored["runs"]}
    assert lengths == {"auto": 14, "kwon": 4, "axformer, epsilon 0.1": 4, "random": 4}
    for one in stored["runs"]:
        for trial in one["trials"]:
            assert 0 <= trial["accuracy"] <= 1
            assert trial["latency"] > 0
    assert "| auto | 1 | 14 |" in (tmp_path / "samplers.md").read_text()
    assert (tmp_path / "samplers.svg").read_text().startswith("<?xml")
    before = (tmp_path / "samplers.json").read_bytes()
    run("samplers.py", *arguments)
    assert (tmp_path / "samplers.json").read_bytes() == before


def test_promises(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "base").symlink_to(base_dir)
    for split in ("train", "validation", "test"):
        Dataset.from_csv(str(data_dir / f"{split}.csv"), cache_dir=str(tmp_path)).to_json(
            folder / "data" / f"{split}.jsonl"
        )
    arguments = (
        folder.parent, "--seeds", 2, "--examples", 40, 60, "--trials", 12, "--out", tmp_path / "out"
    )  # fmt: skip
    run("promises.py", *arguments)
    results = tmp_path / "out" / "promises.json"
    found = json.loads(results.read_text())
    assert [(one["seed"], one["examples"]) for one in found["runs"]] == [(0, 40), (1, 60)]
    assert {one["holdout_examples"] for one in found["runs"]} == {80}
    for one in found["runs"]:
        seen, expected = one["picked"]["seen"], one["picked"]["expected"]
        assert seen["seen"] <= 0.01 + 1e-9
        assert expected["expected"] <= 0.01 + 1e-9
        assert expected["low"] <= expected["holdout"] <= expected["high"]
    assert found["summary"]["seen"]["runs"] == 2
    lost = [one["picked"]["seen"]["holdout"] for one in found["runs"]]
    assert found["summary"]["seen"]["mean"] == pytest.approx(np.mean(lost))
    assert "| expected at most 0.01 | 2 of 2 |" in (tmp_path / "out" / "promises.md").read_text()
    before = results.read_bytes()
    run("promises.py", *arguments)
    assert results.read_bytes() == before


def test_workers(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[tuple[str, str]] = []

    real = subprocess.run

    def here(command: list[str], **options: object) -> object:
        """The worker that the command would start, in this process."""
        if list(command[1:4]) != ["-m", "axsearch", "worker"]:
            return real(command, **options)  # type: ignore[call-overload]
        given = dict(zip(command[4::2], command[5::2], strict=True))
        places.append((given["--workers"], given["--cpus-per-worker"]))
        with closing(open_database(given["--storage"])) as database:
            work(database, given["--study"])
        return None

    monkeypatch.setattr(subprocess, "run", here)
    out = tmp_path / "workers.json"
    run("workers.py", base_dir, data_dir, "--recipes", 3, "--rounds", 1, "--out", out)
    found = json.loads(out.read_text())
    for runs in found["runs"].values():
        assert [(one["recipes"], one["seconds"] > one["seconds_a_recipe"]) for one in runs] == [
            (3, True)
        ]
    assert places == [("2", "1"), ("1", "2")]
    two, one = (found["runs"][way][0]["seconds"] for way in found["runs"])
    assert found["ratio"] == two / one


def test_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORED", "24")
    monkeypatch.setenv("WORKERS", "2")
    run_alone("store.py", tmp_path / "store.json")
    found = json.loads((tmp_path / "store.json").read_text())
    assert found["stored"] == 24
    assert 0 < found["front"] <= 24 + 12
    assert all(found[name] > 0 for name in found if name.startswith(("ms_", "seconds_")))


def test_evaluation(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    arguments = (
        "--trials",
        14,
        "--timed",
        5,
        "--threads",
        1,
        "--storage",
        storage,
        "--out",
        tmp_path,
    )
    run("evaluation.py", base_dir, data_dir, *arguments)
    found = json.loads((tmp_path / "evaluation.json").read_text())["auto, 14 trials"]
    assert found["trials"] == 14
    assert found["timed"]["recipes"] == 5
    assert found["timed"]["different_accuracies"] == {"bfloat16": 0, "float32": 0}
    assert found["timed"]["passes"]["float32"] <= 1
    assert 0 < found["staged"]["examples"] <= 1


def test_bookkeeping(tmp_path: Path) -> None:
    run("bookkeeping.py", "--trials", 20, "--layers", 2, "--out", tmp_path)
    found = json.loads((tmp_path / "bookkeeping.json").read_text())["2"]
    assert found["trials"] == 20
    assert found["mean_ms"] > 0


def test_what_the_readme_says_of_the_committed_results() -> None:
    data = json.loads((BENCHMARKS / "results" / "topk_attention.json").read_text())

    def point(contender: str, length: int, backward: bool) -> dict[str, float]:
        wanted = {
            "what": "attention", "contender": contender, "length": length, "causal": False,
            "backward": backward, "k": None if contender in ("sdpa", "explicit", "chunked") else 64,
        }  # fmt: skip
        (found,) = (p for p in data["points"] if wanted.items() <= p.items())
        return found

    for length in (1024, 2048, 4096):
        assert point("topk", length, backward=False)["ratio"] < 1
        assert point("topk", length, backward=True)["ratio"] < 0.6
    for backward in (False, True):
        lengths = (4096, 8192, 16384, 32768)
        peaks = [point("topk", length, backward)["peak_bytes"] for length in lengths]
        assert np.corrcoef(lengths, peaks)[0, 1] ** 2 >= 0.99
    ours = point("topk", 4096, backward=True)["peak_bytes"]
    assert point("explicit", 4096, backward=True)["peak_bytes"] > 12 * ours
    assert point("chunked", 4096, backward=True)["peak_bytes"] > ours


def test_refitting_loses_at_most_seven_tenths_of_what_removal_loses() -> None:
    data = json.loads((BENCHMARKS / "results" / "compensation.json").read_text())
    base = data["facts"]["accuracy"]
    for share in (0.6, 0.4):
        lost = {
            way: np.mean(
                [
                    base - row["accuracy"]
                    for row in data["rows"]
                    if (row["share"], row["compensation"]) == (share, way)
                ]
            )
            for way in ("none", "least_squares")
        }
        assert lost["none"] > 0
        assert lost["least_squares"] <= 0.7 * lost["none"]


def test_the_sequential_refit_is_worth_its_time() -> None:
    data = json.loads((BENCHMARKS / "results" / "refit_movie_reviews.json").read_text())
    parts = {part: [r for r in data["rows"] if r["part"] == part] for part in ("accuracy", "cost")}

    def accuracy(way: str, examples: int) -> dict[str, float]:
        wanted = (
            r for r in parts["accuracy"] if (r.get("way"), r.get("examples")) == (way, examples)
        )
        return {row["recipe"]: row["accuracy"] for row in wanted}

    before, after = accuracy("least_squares", 512), accuracy("sequential", 2048)
    assert before.keys() == after.keys()
    assert len(before) >= 6
    assert np.mean([after[name] - before[name] for name in before]) >= 0.01
    (cost,) = (row["seconds"] for row in parts["cost"])
    spent = {
        way: sum(sum(seconds) for name, seconds in cost.items() if name.startswith(way))
        for way in ("least_squares", "sequential")
    }
    assert spent["sequential"] <= 2.0 * spent["least_squares"]


def test_picked_models_keep_what_is_promised_of_them() -> None:
    data = json.loads((BENCHMARKS / "results" / "promises.json").read_text())
    runs = data["runs"]
    tasks = [one["task"] for one in runs]
    assert len(set(tasks)) >= 5
    assert all(tasks.count(task) >= 3 for task in tasks)
    assert all(300 <= one["examples"] <= 1000 for one in runs)

    def lost(way: str) -> np.ndarray:
        return np.array([one["picked"][way]["holdout"] for one in runs if one["picked"][way]])

    assert lost("expected").mean() <= 0.010
    assert (lost("expected") > 0.02).mean() <= 0.1
    assert 0.85 <= (lost("confident") <= 0.01 + 1e-9).mean() <= 1
    assert data["summary"]["expected"]["mean"] == pytest.approx(lost("expected").mean())
    page = (Path(__file__).parents[2] / "docs" / "how-it-is-measured.md").read_text()
    for way in ("seen", "expected", "confident"):
        one = data["summary"][way]
        assert f"| {one['mean']:.4f} ({one['low']:.4f} to {one['high']:.4f}) |" in page


def test_onnx_half_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)  # the script leaves it so
    sizes = [
        f"--{name}" for name in ("layers=1", "batch-size=2", "length=8", "pairs=2", "threads=1")
    ]
    run("onnx_half_size.py", *sizes, "--out", tmp_path)
    data = json.loads((tmp_path / "onnx_half_size.json").read_text())
    assert set(data["half_relative_to_whole"]) == {"onnx", "openvino", "pytorch"}
    for row in data["half_relative_to_whole"].values():
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert data["fused"]["half"] == {"FusedMatMul": 1, "SkipLayerNormalization": 2, "BiasGelu": 1}
    # A shell that runs the tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):  # OpenVINO left a stack to handle signals on
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
