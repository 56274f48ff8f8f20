from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import tiny_bert, tiny_tokenizer
from optuna.trial import TrialState

import axsearch.run
from axsearch import Evaluator, Study, export_model, search
from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.holdout import evaluate_front, holdout_speed
from axsearch.interrupts import Interrupts
from axsearch.recipe import Recipe
from axsearch.store.queries import save_study

Search = Callable[..., Study]


@pytest.fixture
def run(base_dir: Path, data_dir: Path, tmp_path: Path) -> Search:
    """A search with everything given; keywords replace it."""
    given = {
        "model": str(base_dir),
        "data": str(data_dir),
        "storage": f"sqlite:///{tmp_path / 'studies.db'}",
        "study": "tiny",
        "trials": 6,
        "batch_size": 4,
        "threads": 1,
    }

    def call(**changed: object) -> Study:
        return search(**{**given, **changed})  # type: ignore[arg-type]

    return call


@pytest.fixture(scope="module")
def finished(
    base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Study]:
    """A study of 20 trials, for tests that only read."""
    storage = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    study = search(
        str(base_dir), str(data_dir), storage=storage, study="done", trials=20, batch_size=4
    )
    return storage, study


def test_the_base_comes_first_and_then_the_ladder(finished: tuple[str, Study]) -> None:
    _, study = finished
    first = study.trial(0)
    assert first.recipe == Recipe.of({}).to_dict()
    assert (first.latency_ratio, first.size_ratio) == (1.0, 1.0)
    sizes = [study.trial(number).size_bytes for number in range(8)]
    assert sizes == sorted(sizes, reverse=True)
    assert first == study.baseline


def test_values_are_those_of_the_measurement_and_named(finished: tuple[str, Study]) -> None:
    _, study = finished
    assert study.optuna.metric_names == ["accuracy", "latency_ratio", "size_ratio"]
    for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,)):
        measured = study.trial(trial.number)
        assert trial.values == [measured.accuracy, measured.latency_ratio, measured.size_ratio]
        assert measured.accuracy_low <= measured.accuracy <= measured.accuracy_high


def test_the_front_is_the_one_optuna_finds(finished: tuple[str, Study]) -> None:
    _, study = finished
    ours = {tuple(study.optuna.trials[m.trial].values) for m in study.front()}
    theirs = {tuple(trial.values) for trial in study.optuna.best_trials}
    assert ours == theirs
    assert len(ours) >= 2


def test_opening_it_again_gives_the_same(finished: tuple[str, Study]) -> None:
    storage, study = finished
    again = Study.open(storage, "done")
    assert again.spec == study.spec
    assert again.measurements == study.measurements


def test_picking(finished: tuple[str, Study]) -> None:
    _, study = finished
    floor = study.baseline.accuracy - 0.05
    for by, key in (("latency", "latency_ratio"), ("size", "size_bytes")):
        chosen = study.pick(max_drop=0.05, by=by)  # type: ignore[arg-type]
        allowed = [m for m in study.front() if m.accuracy >= floor]
        assert chosen.accuracy >= floor
        assert getattr(chosen, key) == min(getattr(m, key) for m in allowed)
    assert study.pick(knee=True) in study.front()
    for wrong in ({}, {"max_drop": 0.1, "knee": True}):
        with pytest.raises(UsageError, match="either"):
            study.pick(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="within -1"):
        study.pick(max_drop=-1.0)


def test_holdout_is_opened_only_when_asked(
    base_dir: Path, data_dir: Path, tmp_path: Path, run: Search
) -> None:
    study = run(trials=4)
    assert all(m.holdout_accuracy is None for m in study.measurements)
    evaluate_front(study)
    opened = {m.trial for m in study.measurements if m.holdout_accuracy is not None}
    assert opened == {m.trial for m in study.front()} | {study.baseline.trial}
    evaluate_front(study)  # stored: nothing is evaluated again
    assert {m.trial for m in study.measurements if m.holdout_accuracy is not None} == opened


def test_speed_on_the_holdout_examples(run: Search) -> None:
    study = run(trials=3)
    speed = holdout_speed(study, 2, pairs=2, batches=3)
    assert 0 < speed.ratio < 20
    with pytest.raises(UsageError, match="no finished trial 77"):
        holdout_speed(study, 77)


def test_trials_is_the_total_and_nothing_is_evaluated_twice(
    run: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(trials=3)
    evaluated: list[int] = []
    predict = axsearch.evaluation.evaluator.predict
    monkeypatch.setattr(
        "axsearch.evaluation.evaluator.predict",
        lambda *args, **kwargs: evaluated.append(1) or predict(*args, **kwargs),
    )
    assert len(run(trials=3).measurements) == 3
    assert evaluated == []
    assert len(run(trials=5).measurements) == 5
    assert len(evaluated) == 2
    # The same recipes in another study of the same model and data cost nothing.
    assert len(run(trials=5, study="second").measurements) == 5
    assert len(evaluated) == 2


def test_a_stopped_search_keeps_what_was_finished_and_goes_on(
    run: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(trials=6, study="uninterrupted")
    measure = Evaluator.measure

    def stopped(self: Evaluator, recipe: Recipe, **kwargs: object) -> object:
        if kwargs.get("trial") == 3:
            raise KeyboardInterrupt
        return measure(self, recipe, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(trials=6)
    monkeypatch.undo()
    study = run(trials=6)
    states = [trial.state for trial in study.optuna.trials]
    assert states.count(TrialState.COMPLETE) == 6
    assert states.count(TrialState.FAIL) == 1
    assert states[3] == TrialState.FAIL
    # The recipe that was interrupted is tried again: the ladder is as without interruption.
    assert {str(m.recipe) for m in study.measurements} == {
        str(m.recipe) for m in whole.measurements
    }


def test_a_killed_first_trial_is_made_up_for(run: Search, tmp_path: Path) -> None:
    """A process that was killed leaves its trial running; here the base's own trial."""
    run(trials=1, study="other")  # makes the database
    study = run(trials=2)
    storage = study.database.storage
    optuna.delete_study(study_name="tiny", storage=storage)
    killed = optuna.create_study(
        study_name="tiny", storage=storage, directions=["maximize", "minimize", "minimize"]
    )
    killed.enqueue_trial(run(trials=1, study="other").optuna.trials[0].params)
    with pytest.warns(UserWarning, match="Heartbeat"):  # a killed trial, not one to go on with
        killed.ask()
    with_spec = study.spec.model_dump(mode="json")
    save_study(study.database.engine, "tiny", with_spec)
    again = run(trials=2)
    states = [trial.state for trial in again.optuna.trials]
    assert states[0] == TrialState.RUNNING
    assert states.count(TrialState.COMPLETE) == 2
    assert again.baseline.latency_ratio == 1.0


def test_signals_wait_where_a_trial_would_be_lost() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)  # between trials: nothing happens yet
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.check()  # once only
        with interrupts.at_once(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.at_once().__enter__()
    assert signal.getsignal(signal.SIGTERM) == before


def test_numbers_that_are_not_finite_fail_the_trial_and_five_in_a_row_the_run(
    run: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = axsearch.evaluation.evaluator.predict
    broken = {"from": 2, "to": 4}
    calls: list[int] = []

    def sometimes(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if broken["from"] <= len(calls) < broken["to"]:
            raise NonFiniteError("The model's logits are not finite.")
        return predict(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("axsearch.evaluation.evaluator.predict", sometimes)
    study = run(trials=4)
    assert len(study.measurements) == 4
    failed = study.optuna.get_trials(states=(TrialState.FAIL,))
    assert len(failed) == 2
    broken.update({"from": len(calls) + 1, "to": len(calls) + 2})
    assert run(trials=2, study="base fails once", search_examples=70).baseline.latency_ratio == 1.0
    broken.update({"from": 0, "to": 10_000})
    with pytest.raises(AxsearchError, match="5 trials in a row"):
        run(trials=30)
    assert len(study.optuna.get_trials(states=(TrialState.COMPLETE,))) == 4


def test_what_a_study_is_about_cannot_change(
    run: Search, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(trials=2)
    other = tmp_path / "other"
    tiny_bert(seed=5).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    changes: list[tuple[dict[str, object], str]] = [
        ({"model": str(other)}, "another model"),
        ({"search_examples": 40}, "another data"),
        ({"objectives": ("accuracy", "size")}, "another objectives"),
        ({"metric": "f1"}, "another metric"),
        ({"batch_size": 8}, "another scenario"),
        ({"max_drop": 0.1}, "another max drop"),
    ]
    for change, word in changes:
        with pytest.raises(UsageError, match=word):
            run(trials=2, **change)
    with monkeypatch.context() as patched:
        levels = axsearch.approximations.heads.Heads.fractions
        patched.setattr("axsearch.approximations.heads.Heads.fractions", levels[1:])
        patched.setattr("axsearch.approximations.ffn.FfnNeurons.fractions", (0.5,))
        with pytest.raises(UsageError, match="another search space"):
            run(trials=2)
    assert len(run(trials=2).measurements) == 2


def test_a_study_of_somebody_else_is_refused(run: Search, tmp_path: Path) -> None:
    optuna.create_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'studies.db'}")
    with pytest.raises(UsageError, match="not made by axsearch"):
        run()


def test_a_study_deleted_in_the_dashboard_can_be_made_anew(run: Search, tmp_path: Path) -> None:
    storage = run(trials=2).database.storage
    optuna.delete_study(study_name="tiny", storage=storage)
    with pytest.raises(UsageError, match="holds no study yet"):
        Study.open(f"sqlite:///{tmp_path / 'studies.db'}", "tiny")
    assert len(run(trials=2, batch_size=5).measurements) == 2


def test_a_study_is_found_from_another_folder(
    run: Search, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base_dir.parent)
    study = run(trials=3, model=base_dir.name)
    monkeypatch.chdir(tmp_path)
    export_model(study, 2, "small")
    text = (tmp_path / "small" / "README.md").read_text()
    assert f'base_model: "{base_dir.name}"' in text
    assert str(base_dir) not in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"trials": 0}, "--trials"),
        ({"batch_size": 0}, "--batch-size"),
        ({"sequence_length": 0}, "--sequence-length"),
        ({"sequence_length": 65}, "above the model's 64"),
        ({"threads": 0}, "--threads"),
        ({"search_examples": 0}, "--search-examples"),
        ({"sampler": "axformer"}, "axformer"),
        ({"max_drop": float("nan")}, "--max-drop"),
        ({"max_latency_ratio": 0.0}, "--max-latency-ratio"),
        ({"max_latency_ratio": float("nan")}, "--max-latency-ratio"),
        ({"storage": "sqlite://"}, "in memory"),
        ({"device": "tpu"}, "tpu"),
        ({"objectives": ("accuracy", "speed")}, "speed"),
        ({"objectives": ("latency", "size")}, "--objectives"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"data": "/no/such/data"}, "/no/such/data"),
        ({"storage": "nonsense"}, "database URL"),
        ({"metric": "bleu"}, "bleu"),
        ({"task": "glue/none"}, "glue/none"),
        ({"task": "glue/stsb"}, "2 classes, which does not fit regression"),
        ({"metric": "pearson"}, "'pearson' does not fit text-classification"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_measured(
    run: Search, change: dict[str, object], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("expensive work was started")

    monkeypatch.setattr("axsearch.run.fisher_importance", never)
    monkeypatch.setattr("axsearch.evaluation.evaluator.predict", never)
    with pytest.raises(UsageError, match=word):
        run(**change)


def test_limits_make_trials_infeasible_and_keep_them_off_the_front(run: Search) -> None:
    study = run(trials=13, max_drop=-0.001, max_latency_ratio=50.0)
    floor = study.baseline.accuracy + 0.001
    assert all(m.accuracy >= floor - 1e-9 for m in study.front())
    broken = [m for m in study.measurements if m.accuracy < floor]
    assert study.baseline in broken
    feasible = {t.number for t in study.optuna.best_trials}
    assert feasible.isdisjoint(m.trial for m in broken)


def test_without_latency_nothing_is_timed(run: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("latency was measured")

    monkeypatch.setattr("axsearch.evaluation.evaluator.measure_latency", never)
    study = run(trials=3, objectives=("accuracy", "size"))
    assert all(m.latency_ratio is None for m in study.measurements)
    assert study.pick(max_drop=1.0, by="size").size_ratio < 1
    with pytest.raises(UsageError, match="--by size"):
        study.pick(max_drop=1.0, by="latency")


def test_accuracy_and_size_are_those_of_the_real_smaller_model(finished: tuple[str, Study]) -> None:
    """Recomputed from the recipe alone, by another way than the evaluator's."""
    import torch

    from axsearch import Task, shrink
    from axsearch.calibration.moments import measure_moments

    _, study = finished
    task = Task.load(study.spec.model, study.spec.data)
    moments = measure_moments(task.model, task.calibration, task.kind)
    for member in study.front()[:3]:
        model = shrink(task.model, Recipe.from_dict(member.recipe), moments)
        right = []
        with torch.inference_mode():
            for example, label in zip(task.search.inputs, task.search.targets, strict=True):
                one = {key: torch.tensor([value]) for key, value in example.items()}
                right.append(int(model(**one).logits.argmax()) == label)
        assert np.mean(right) == pytest.approx(member.accuracy, abs=1e-12)
        assert sum(p.numel() for p in model.parameters()) == member.parameters
