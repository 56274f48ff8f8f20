"""Studies whose models are served in another runtime or precision than trials are evaluated in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from axsearch import Study, export_model, remeasure, search, verify_export
from axsearch.cli.front import print_front, print_json
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task
from axsearch.evaluation.serving import predictions, quantization_examples, served_accuracy
from axsearch.graphs.onnx import ConversionError
from axsearch.reporting.baselines import served_words
from axsearch.reporting.dashboard.annotating import study_note
from axsearch.reporting.explanation import explain_trial, export_command
from axsearch.reporting.report import Report
from axsearch.running import serving
from axsearch.running.holdout import evaluate_front
from axsearch.runtimes import open_session, runtimes
from axsearch.runtimes.openvino import HINTS
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import Scenario
from axsearch.store.calibration_keys import baselines_kind
from axsearch.store.queries import replace_calibration
from axsearch.study.baselines import TimedBase, TimedBases, baselines, own_baseline, timed_bases
from axsearch.study.comparison import ties
from axsearch.study.evaluations import shown_weights
from axsearch.testing.latency import MEASURE, table_by_units
from tests.common_fixtures import copied

NAME = "served"


def asked(url: str, **more: Any) -> dict[str, Any]:
    return {
        "storage": url, "study": NAME, "trials": 5, "batch_size": 4, "threads": 1,
        "approximations": ("heads", "ffn"), "compensation": "none", "search_examples": 48,
        "runtime": "onnxruntime", "precision": "int8", **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def first(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a study whose models are served in int8 by ONNX Runtime."""
    url = f"sqlite:///{tmp_path_factory.mktemp('served') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)
        search(str(base_dir), str(data_dir), **asked(url))
    return url


@pytest.fixture
def study(first: str, tmp_path: Path) -> Study:
    return Study.open(copied(first, tmp_path), NAME)


def others(study: Study) -> list[Any]:
    return [m for m in study.front() if m.recipe != EXACT.to_dict()]


def test_the_front_is_evaluated_and_timed_as_it_is_served(study: Study) -> None:
    task, scenario = load_task(study.spec), study.spec.scenario
    assert scenario is not None
    evaluator = Evaluator(task, study.database.engine, scenario)
    assert others(study)
    for member in others(study):
        recipe = Recipe.from_dict(member.recipe)
        found = study.outcomes([recipe])[recipe.hash]
        with open_session(evaluator.weights.shrink(recipe), scenario) as session:
            again = predictions(session, task.search, task.kind)
        outcome = task.kind.outcome(task.metric, task.search, again.answers)
        assert found.outcome.values.tolist() == outcome.values.tolist()
        assert found.losses is not None
        assert np.abs(found.losses - again.losses).max() < 1e-5
        assert found.losses.tolist() != evaluator.losses(recipe).tolist()  # which are float32's
        assert member.accuracy == found.value
        assert member.accuracy_tried == evaluator.accuracy(recipe, task.search).value
        assert member.latency_measured
    # Drops are below the user's own model, in whatever it is served. Of the front's members it is
    # the one that is served as it is.
    own = evaluator.accuracy(EXACT, task.search)
    assert study.baseline.accuracy == own.value
    assert (
        study.outcomes([EXACT])[EXACT.hash].outcome.values.tolist() == own.outcome.values.tolist()
    )


def test_the_base_is_measured_in_each_precision(study: Study) -> None:
    found = {(one.timed.runtime, one.timed.precision): one for one in baselines(study)}
    names = {("torch", "float32"), ("onnxruntime", "float32"), ("onnxruntime", "int8")}
    assert found.keys() == names
    own = own_baseline([*found.values()])
    assert own is found["onnxruntime", "int8"]
    assert own.measurement.latency_ratio == 1
    exact = found["torch", "float32"]
    assert exact.search is None  # it is what others are compared with
    assert exact.measurement.accuracy == study.baseline.accuracy
    assert own.search is not None
    assert own.search.drop.value == pytest.approx(
        study.baseline.accuracy - own.measurement.accuracy
    )
    assert own.timed.size_bytes < 0.6 * found["onnxruntime", "float32"].timed.size_bytes


def test_the_base_on_the_front_is_as_it_is_served(study: Study) -> None:
    served = next(one for one in baselines(study) if one.own)
    members = [m for m in study._members if m.recipe == EXACT.to_dict()]
    assert [m.accuracy for m in members] == [served.measurement.accuracy]
    trial = study.baseline.trial or 0
    assert served.search is not None
    expected = study.expected[trial]
    assert expected.examples == len(study.outcomes([EXACT])[EXACT.hash].outcome)
    assert (expected.drop == 0) == (served.search.drop.value == 0 and expected.error == 0)


def test_models_are_shown_as_served_with_the_weights_that_they_have_now() -> None:
    scenario = Scenario(threads=1, runtime="onnxruntime", precision="int8")
    spec = SimpleNamespace(
        scenario=scenario, served=True, polished="p" * 64, weights="", splits={"calibration": "c"}
    )
    assert shown_weights(spec) == (  # type: ignore[arg-type]
        scenario.served("p" * 64, "c"), "p" * 64, scenario.served("", "c"),
    )  # fmt: skip
    assert scenario.served("", "c") != scenario.served("", "d")
    plain = SimpleNamespace(scenario=Scenario(), served=False, polished="p" * 64, weights="")
    assert shown_weights(plain) == ("p" * 64,)  # type: ignore[arg-type]


def test_a_baseline_that_was_missing_is_measured_later(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, scenario = load_task(study.spec), study.spec.scenario
    evaluator = Evaluator(task, study.database.engine, scenario)
    before = {(one.runtime, one.precision): one for one in timed_bases(study)}
    left = tuple(one for name, one in before.items() if name != ("onnxruntime", "float32"))
    assert study.spec.workload is not None
    key = (task.model_fingerprint, study.spec.workload, baselines_kind(study.spec.machine))
    record = TimedBases(bases=left).model_dump(mode="json")
    replace_calibration(study.database.engine, *key, record)
    assert len(baselines(study)) == 2
    found = {(one.runtime, one.precision): one for one in serving.measure_baselines(evaluator)}
    assert found.keys() == before.keys()
    assert all(found[one.runtime, one.precision] == one for one in left)  # as they were
    assert len(baselines(study)) == 3


def test_a_model_that_cannot_be_served_is_left_as_it_is(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with study.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM ax_evaluations WHERE weights <> ''"))
    study.refresh()
    before = {m.trial: m.accuracy for m in study.front()}

    def never(*_: Any) -> None:
        raise ConversionError("It has an operator that nobody knows.")

    monkeypatch.setattr(serving, "_serve", never)
    task = load_task(study.spec)
    evaluator = Evaluator(task, study.database.engine, study.spec.scenario)
    assert serving.serve_front(study, evaluator) == 0
    assert {m.trial: m.accuracy for m in study.front()} == before
    assert "an operator that nobody knows" in " ".join(capsys.readouterr().err.split())


def test_a_front_says_which_of_its_models_were_not_served(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "ONNX Runtime int8"
    assert served_words(study, baselines(study)).endswith(
        f"The accuracies of the front are those in {where}."
    )
    first, base, found = others(study)[0], study.baseline, baselines(study)
    monkeypatch.setattr(Study, "served", lambda *_: {})
    monkeypatch.setattr(Study, "front", lambda *_: [base, first])
    words = served_words(study, found)
    assert f"those in {where}; trials not evaluated there" in words
    assert words.endswith(f"are PyTorch's: {first.trial}.")
    monkeypatch.setattr(Study, "front", lambda *_: [first])
    assert f"No model of the front was evaluated in {where}" in served_words(study, found)


def test_what_cannot_be_served_is_told_with_its_trials(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = study.spec.scenario
    assert scenario is not None
    failed = {Recipe.from_dict(m.recipe).hash: "no kernel" for m in others(study)}
    serving._say_failed(study, scenario, failed)
    said = " ".join(capsys.readouterr().err.split())
    trials = ", ".join(str(m.trial) for m in others(study))
    assert f"onnxruntime int8 cannot serve the models of trials {trials}," in said
    assert said.endswith("whose accuracies stay those of PyTorch: no kernel")


def test_a_study_of_int8_is_ranked_for_pytorch_by_what_pytorch_answers(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    found = remeasure(study, runtime="torch")
    evaluator = Evaluator(load_task(study.spec), study.database.engine, Scenario(threads=1))
    for member in found.front:
        recipe = Recipe.from_dict(member.recipe)
        own = evaluator.measure(recipe)
        assert member.accuracy == own.accuracy
        assert (member.size_bytes, member.size_ratio) == (own.size_bytes, own.size_ratio)
    assert found.baseline.size_bytes > 3 * study.baseline.size_bytes


def test_pytorchs_bfloat16_is_served_and_exported(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    given = asked(f"sqlite:///{tmp_path / 'half.db'}", runtime="torch", precision="auto", trials=3)
    real = serving._timed

    def faster(evaluator: Evaluator, scenario: Scenario, variant: Scenario) -> TimedBase:
        found = real(evaluator, scenario, variant)
        ratios = {"bfloat16": 0.5, "float32": 1.0}
        own = ratios[variant.precision] / ratios[scenario.precision]
        return found.model_copy(update={"ratio": own})

    monkeypatch.setattr(serving, "_timed", faster)
    monkeypatch.setattr(serving, "KEPT", 1.0)
    study = search(str(base_dir), str(data_dir), **given)
    assert study.spec.scenario is not None
    assert study.spec.scenario.precision == "bfloat16"
    assert [one.words for one in baselines(study)] == ["PyTorch float32", "PyTorch bfloat16"]
    member = others(study)[0]
    assert study.served([Recipe.from_dict(member.recipe).hash])
    folder = export_model(study, member.trial, str(tmp_path / "half"), force=True)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert verify_export(str(folder)).difference <= 1e-5


def test_a_study_is_served_in_openvino(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    url = f"sqlite:///{tmp_path / 'openvino.db'}"
    study = search(
        str(base_dir), str(data_dir), **asked(url, runtime="openvino", precision="auto", trials=4)
    )
    assert study.spec.scenario is not None
    words = {one.words: one for one in baselines(study)}
    assert words.keys() == {"PyTorch float32", *(f"OpenVINO {p}" for p in HINTS)}
    own = words[f"OpenVINO {study.spec.scenario.precision}"]
    assert own.own
    # The times of tiny models are noise, so any precision may be the fastest that keeps enough.
    assert study.baseline.accuracy - own.measurement.accuracy <= serving.KEPT
    member = others(study)[0]
    assert study.served([Recipe.from_dict(member.recipe).hash])
    assert "--format openvino" in export_command(study, 1)
    folder = export_model(study, member.trial, str(tmp_path / "out"), format="openvino", force=True)
    assert verify_export(str(folder)).difference <= 1e-3


def test_nothing_is_measured_again(
    study: Study, base_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    before, url = study.front(), study.database.in_command
    monkeypatch.setattr(MEASURE, table_by_units)
    for name in ("_timed", "_serve"):
        monkeypatch.setattr(serving, name, never)
    again = search(str(base_dir), str(data_dir), **asked(_url(study)))
    assert again.front() == before
    assert url


def _url(study: Study) -> str:
    return str(study.database.engine.url)


def test_front_report_and_dashboard_show_the_honest_baselines(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    print_front(study)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("PyTorch float32", "ONNX Runtime float32", "ONNX Runtime int8"):
        assert f"base, {words}" in shown
    assert "relative to the base in ONNX Runtime int8" in shown
    print_json(study)
    data = json.loads(capsys.readouterr().out)
    assert [(b["runtime"], b["precision"]) for b in data["baselines"]] == [
        (one.timed.runtime, one.timed.precision) for one in baselines(study)
    ]
    assert data["baseline"]["accuracy"] == study.baseline.accuracy
    member = others(study)[0]
    assert member.trial is not None
    explained = " ".join(explain_trial(study, member.trial).sentences)
    assert "Without pruning the base in ONNX Runtime int8 is" in explained
    rows = [row.label for row in Report(study).rows]
    assert sum(label.startswith("base, ") for label in rows) == 3
    assert str(study.baseline.trial) not in rows
    note = study_note(study, study.front(), ties(study))
    assert "| base in ONNX Runtime int8 | latency 1.000" in note
    assert "--format onnx" in export_command(study, 1)


def test_holdout_is_opened_as_models_are_served(study: Study) -> None:
    evaluate_front(study)
    task, scenario = load_task(study.spec), study.spec.scenario
    assert scenario is not None
    evaluator = Evaluator(task, study.database.engine, scenario)
    member = others(study)[0]
    recipe = Recipe.from_dict(member.recipe)
    expected = served_accuracy(
        study.database.engine, task, scenario, recipe, task.holdout, evaluator.weights
    )
    found = study.outcomes([recipe], "holdout")[recipe.hash]
    assert found.outcome.values.tolist() == expected.outcome.values.tolist()
    exact = study.outcomes([EXACT], "holdout")[EXACT.hash]
    own = evaluator.accuracy(EXACT, task.holdout)
    assert exact.outcome.values.tolist() == own.outcome.values.tolist()
    served = baselines(study)
    assert all(one.opened is not None for one in served)
    assert [one.holdout is None for one in served] == [
        one.timed.runtime == "torch" for one in served
    ]


def test_what_was_measured_is_exported_and_verified(study: Study, tmp_path: Path) -> None:
    trial = others(study)[0].trial
    small = export_model(study, trial, str(tmp_path / "int8"), format="onnx", force=True)
    exact = export_model(
        study, trial, str(tmp_path / "exact"), format="onnx", precision="float32", force=True
    )
    found = verify_export(str(small))
    assert found.format == "onnx"
    assert found.difference <= 1e-3
    sizes = [(folder / "model.onnx").stat().st_size for folder in (small, exact)]
    assert sizes[0] < 0.7 * sizes[1]  # most of a tiny file is the graph
    assert "| precision | int8 | float32 |" in (small / "README.md").read_text()
    assert f"{sizes[0]:,}" in (small / "README.md").read_text()
    assert "precision" not in (exact / "README.md").read_text().partition("## What is left")[0]
    outputs = [json.loads((one / "probe.json").read_text())["outputs"] for one in (small, exact)]
    assert outputs[0] != outputs[1]
    with open_session(small, Scenario(runtime="onnxruntime", precision="int8")) as session:
        assert session.size_bytes == sizes[0]


def test_a_study_of_pytorch_is_exported_in_int8_for_openvino(
    tiny_study: tuple[str, str], tmp_path: Path
) -> None:
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    trial = next(m.trial for m in study.front() if m.recipe != EXACT.to_dict())
    folder = export_model(
        study, trial, str(tmp_path / "out"), format="openvino", precision="int8", force=True
    )
    assert verify_export(str(folder)).difference <= 1e-3
    assert {path.name for path in folder.iterdir()} >= {"model.xml", "model.bin"}
    assert not (folder / "examples.npz").exists()
    half = export_model(
        study, trial, str(tmp_path / "half"), format="openvino", precision="bfloat16", force=True
    )
    assert verify_export(str(half)).difference <= 1e-3
    assert '"INFERENCE_PRECISION_HINT": "bf16"' in (half / "README.md").read_text()


def test_a_study_of_pytorch_is_ranked_for_another_runtime(
    tiny_study: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    found = remeasure(study, runtime="onnxruntime")
    assert (found.scenario["runtime"], found.scenario["precision"]) == ("onnxruntime", "float32")
    assert all(m.latency_measured for m in found.front)
    for member in found.front:  # k would save no time there
        recipe = Recipe.from_dict(member.recipe)
        assert not any(name == "topk" for _, name, _ in recipe.choices())
        own = next(m for m in study.measurements if m.trial == member.trial)
        assert member.accuracy == pytest.approx(own.accuracy, abs=0.03)
    with pytest.raises(UsageError, match="no precision 'bfloat16'"):
        remeasure(study, runtime="onnxruntime", precision="bfloat16")


def timed(precision: str, ratio: float, runtime: str = "onnxruntime") -> TimedBase:
    return TimedBase(
        runtime=runtime, title=runtime, format="onnx", precision=precision, ratio=ratio, low=ratio,
        high=ratio, ms=10.0, size_bytes=1000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("drop", "ratio", "chosen"), [(0.0, 0.4, "int8"), (0.02, 0.4, "float32"), (0.0, 1.3, "float32")]
)
def test_auto_takes_the_fastest_precision_in_which_the_base_keeps_its_accuracy(
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drop: float,
    ratio: float,
    chosen: str,
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    real = serving._accuracy

    def accuracy(evaluator: Evaluator, one: TimedBase) -> Any:
        exact = real(evaluator, timed("float32", 1.0, "torch"))
        return replace(exact, value=exact.value - (drop if one.precision == "int8" else 0.0))

    def time(evaluator: Evaluator, scenario: Scenario, variant: Scenario) -> TimedBase:
        times = {"int8": ratio, "float32": 1.0}
        own = times[variant.precision] / times[scenario.precision]
        return timed(variant.precision, own, variant.runtime)

    monkeypatch.setattr(serving, "_accuracy", accuracy)
    monkeypatch.setattr(serving, "_timed", time)
    monkeypatch.setattr(serving, "_serve", lambda *_: None)
    monkeypatch.setattr(serving, "_unserved", lambda _: [])
    url = f"sqlite:///{tmp_path / 'auto.db'}"
    given = asked(url, precision="auto", trials=2)
    study = search(str(base_dir), str(data_dir), **given)
    assert study.spec.scenario is not None
    assert study.spec.scenario.precision == chosen
    assert {one.precision for one in timed_bases(study)} == {"float32", "int8"}
    resumed = search(str(base_dir), str(data_dir), **{**given, "trials": 3})
    assert resumed.spec.scenario == study.spec.scenario


def test_a_precision_that_saves_nothing_is_said(
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    monkeypatch.setattr(
        serving,
        "_timed",
        lambda _, scenario, variant: timed(
            variant.precision, 1.0 if variant.precision == "int8" else 0.8, variant.runtime
        ),
    )
    monkeypatch.setattr(serving, "_unserved", lambda _: [])
    search(str(base_dir), str(data_dir), **asked(f"sqlite:///{tmp_path / 'slow.db'}", trials=2))
    said = " ".join(capsys.readouterr().err.split())
    assert "int8 saves next to nothing in onnxruntime on this processor" in said
    assert "it takes 1.25 of the time of float32" in said


def test_what_cannot_be_is_refused_at_once(
    base_dir: Path,
    data_dir: Path,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    for given, words in (
        ({"approximations": ("heads", "topk")}, "`approximations=topk` saves no time"),
        ({"precision": "int4"}, "no precision 'int4'; choose float32, int8"),
        ({"runtime": "tflite"}, "Runtime 'tflite' is not in this version"),
        ({"runtime": "torch"}, "Runtime torch has no precision 'int8'"),
    ):
        with pytest.raises(UsageError, match=words):
            search(str(base_dir), str(data_dir), **asked(url, **given))
    trial, out = study.baseline.trial or 0, str(tmp_path / "out")
    for more, words in (
        ({"format": "hf", "precision": "int8"}, "hf has `dtype`"),
        ({"format": "onnx", "precision": "bfloat16"}, "choose float32, int8"),
        ({"format": "onnx", "dtype": "float16"}, "onnx has `precision`"),
    ):
        with pytest.raises(UsageError, match=words):
            export_model(study, trial, out, **more)
    lacking = "onnxruntime not installed, run pip install 'axsearch[export]'"
    monkeypatch.setattr(type(runtimes()["onnxruntime"]), "missing", lambda *_: lacking)
    with pytest.raises(UsageError, match=r"onnxruntime in int8 cannot be used: .* pip install"):
        search(str(base_dir), str(data_dir), **asked(url))
    assert not (tmp_path / "none.db").exists()


def test_examples_of_int8_are_drawn_evenly_from_the_calibration_split(
    base_dir: Path, data_dir: Path
) -> None:
    from axsearch import Task

    task = Task.load(str(base_dir), str(data_dir))
    found = quantization_examples(task, EXACT)
    assert len(found) == min(128, len(task.calibration))
    assert all(batch["input_ids"].shape[0] == 1 for batch in found)
    ids = task.calibration.collate([0])["input_ids"]
    assert found[0]["input_ids"].equal(ids)
