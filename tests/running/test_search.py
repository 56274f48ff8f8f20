from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from axsearch import Evaluator, Study, export_model, search
from axsearch.approximations.ffn.choice import FfnNeurons
from axsearch.approximations.heads.choice import Heads
from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.latency import measure_latency
from axsearch.evaluation.stages import DominatedError, Threshold
from axsearch.models.base_model import Base
from axsearch.models.refit.moments import measure_moments
from axsearch.running.holdout import evaluate_front, holdout_speed
from axsearch.running.worker import Worker
from axsearch.samplers.warm_start import uniform, warm_start
from axsearch.space.problem import Problem
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate, Outcome
from axsearch.system.interrupts import Interrupts
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.text import tiny_bert, tiny_tokenizer
from tests.common_fixtures import copied

Search = Callable[..., Study]


@pytest.fixture
def run(
    base_dir: Path,
    data_dir: Path,
    calibrated: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Search:
    """A search with everything given, its calibrations too; keywords replace it.

    Where a sampler would take ``sequential`` it is ``least_squares``, which takes less time.
    No clock decides a latency table that is not there. Notes for the dashboard are not drawn; for
    those see test_worker.py.
    """
    monkeypatch.setattr(MEASURE, table_by_units)
    monkeypatch.setattr("axsearch.reporting.dashboard.annotating.annotate", lambda study: None)
    given = {
        "model": str(base_dir),
        "data": str(data_dir),
        "storage": copied(calibrated, tmp_path),
        "study": "tiny",
        "trials": 6,
        "batch_size": 4,
        "threads": 1,
    }

    def call(**changed: object) -> Study:
        way = None if changed.get("sampler") == "axformer" else "least_squares"
        return search(**{**given, "compensation": way, **changed})  # type: ignore[arg-type]

    return call


@pytest.fixture
def uncalibrated(sqlite_template: str, tmp_path: Path) -> str:
    """The URL of a database in which no calibrations are."""
    (tmp_path / "uncalibrated").mkdir()
    return copied(sqlite_template, tmp_path / "uncalibrated")


@pytest.fixture(scope="module")
def finished(
    base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Study]:
    """A study of 20 trials, for tests that only read."""
    storage = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)  # or the front would be a matter of noise
        # Other tests run beside passes of a few milliseconds.
        patched.setitem(Evaluator.latency.__kwdefaults__, "pairs", 25)
        workers = watched(patched)
        study = search(
            str(base_dir), str(data_dir), storage=storage, study="done", trials=20, batch_size=4,
            compensation="least_squares",
        )  # fmt: skip
    WORKERS[storage] = workers[0]
    return storage, study


WORKERS: dict[str, Worker] = {}


def watched(patched: pytest.MonkeyPatch) -> list[Worker]:
    """The workers that searches make from now on."""
    made: list[Worker] = []

    class Watched(Worker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    patched.setattr("axsearch.running.search.Worker", Watched)
    return made


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("expensive work was started")


CALIBRATIONS = ("measure_latency_table", "importance_along_path", "measure_damage")


def trials(study: Study) -> list[tuple[Any, ...]]:
    """All that a trial is, but for its times and ids."""
    return [
        (t.number, t.state, t.params, t.values, t.user_attrs)
        for t in Study(study.database, study.name, study.spec).optuna.get_trials(deepcopy=False)
    ]


def test_the_base_comes_first_and_then_the_warm_start(finished: tuple[str, Study]) -> None:
    storage, study = finished
    first = study.trial(0)
    assert first.recipe == Recipe.of({}).to_dict()
    assert (first.latency_ratio, first.size_ratio) == (1.0, 1.0)
    assert first == study.baseline
    worker = WORKERS[storage]
    problem, asked = worker.problem, worker.warm_start
    assert asked == warm_start(problem)
    assert 3 < len(asked) < 20
    assert [t.params for t in study.optuna.trials][: len(asked)] == asked
    rows = np.array([problem.array(genome) for genome in asked])
    assert not rows[0].any()
    # Those of the knapsack get cheaper step by step.
    ladder = uniform(problem)
    chosen = [row for row in rows[1:].tolist() if row not in ladder.tolist()]
    costs = problem.cost("latency", np.array(chosen)) + problem.cost("size", np.array(chosen))
    assert (np.diff(costs) < 1e-9).all()
    # Afterwards the sampler proposes more; what was known before does not count.
    assert len({t.user_attrs["recipe"] for t in study.optuna.trials}) == 20


def test_latency_is_predicted_and_the_front_timed(finished: tuple[str, Study]) -> None:
    storage, study = finished
    worker = WORKERS[storage]
    front = {m.trial for m in study.front()}
    for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,)):
        measured = study.trial(trial.number)
        predicted = worker.evaluator.predicted_ratio(Recipe.from_dict(measured.recipe))
        assert trial.values[1] == measured.objective_latency == predicted
        assert "latency_predicted" not in measured.model_dump()
        assert "latency_predicted" not in measured.model_dump_json()
        if trial.number in front or measured == study.baseline:
            assert measured.latency_measured
            assert measured.latency_predicted == predicted
            assert 0.2 < measured.latency_ratio / predicted < 5
        else:
            assert not measured.latency_measured
            assert measured.latency_ratio == predicted
        assert measured.latency_ms == pytest.approx(
            measured.latency_ratio * study.baseline.latency_ms
        )
    with study.database.engine.connect() as connection:
        rows = (
            connection.execute(text("SELECT recipe FROM ax_latencies WHERE entry IS NULL"))
            .scalars()
            .all()
        )
    recipes = {Recipe.from_dict(m.recipe).hash for m in [*study.front(), study.baseline]}
    assert sorted(rows) == sorted(recipes)  # nothing else was timed, and nothing twice


def test_values_are_those_of_the_measurement_and_named(finished: tuple[str, Study]) -> None:
    _, study = finished
    assert study.optuna.metric_names == ["accuracy", "latency_ratio", "size_ratio"]
    for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,)):
        measured = study.trial(trial.number)
        assert trial.values == [
            measured.accuracy, measured.objective_latency, measured.size_ratio
        ]  # fmt: skip
        assert measured.accuracy_low <= measured.accuracy <= measured.accuracy_high


def test_the_front_is_the_one_optuna_finds(finished: tuple[str, Study]) -> None:
    _, study = finished
    ours = {tuple(study.optuna.trials[m.trial].values) for m in study.front()}
    theirs = {tuple(trial.values) for trial in study.optuna.best_trials}
    assert ours == theirs
    assert 2 <= len(ours) < len(study.measurements)


def test_opening_it_again_gives_the_same(finished: tuple[str, Study]) -> None:
    storage, study = finished
    again = Study.open(storage, "done")
    assert again.spec == study.spec
    assert again.measurements == study.measurements


def test_picking(finished: tuple[str, Study]) -> None:
    _, study = finished
    for by, key in (("latency", "latency_ratio"), ("size", "size_bytes")):
        chosen = study.pick(max_drop=0.05, by=by)  # type: ignore[arg-type]
        allowed = [m for m in study.front() if study.expected[m.trial or 0].drop <= 0.05]
        assert chosen in allowed
        assert getattr(chosen, key) == min(getattr(m, key) for m in allowed)
    assert study.pick(knee=True) in study.front()
    for wrong in ({"max_drop": 0.1}, {"by": "size"}, {"max_latency_ratio": 0.5}):
        with pytest.raises(UsageError, match="without limits"):
            study.pick(knee=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="keeps `max_drop=-1`"):
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
    predictions = Evaluator._predictions
    monkeypatch.setattr(
        Evaluator,
        "_predictions",
        lambda *args, **kwargs: evaluated.append(1) or predictions(*args, **kwargs),
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


def test_signals_wait_where_a_trial_would_be_lost() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)  # between trials: nothing happens yet
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)  # a second one does not wait
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()  # whoever swallowed those, no further trial begins
    with Interrupts() as interrupts, interrupts.at_once(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.at_once().__enter__()
    assert signal.getsignal(signal.SIGTERM) == before


def test_numbers_that_are_not_finite_fail_the_trial_and_five_in_a_row_the_run(
    run: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = Evaluator._predictions
    broken = {"from": 2, "to": 4}
    calls: list[int] = []

    def sometimes(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if broken["from"] <= len(calls) < broken["to"]:
            raise NonFiniteError("The model's logits are not finite.")
        return predictions(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "_predictions", sometimes)
    study = run(trials=4, staged=False)
    assert len(study.measurements) == 4
    failed = study.optuna.get_trials(states=(TrialState.FAIL,))
    assert len(failed) == 2
    broken.update({"from": len(calls) + 1, "to": len(calls) + 2})
    assert run(trials=2, study="base fails once", search_examples=70).baseline.latency_ratio == 1.0
    broken.update({"from": 0, "to": 10_000})
    with pytest.raises(AxsearchError, match="5 of the last 5 trials failed"):
        run(trials=30)
    assert len(study.optuna.get_trials(states=(TrialState.COMPLETE,))) == 4


@pytest.mark.parametrize(
    ("fast", "sampler", "given", "used"),
    [
        (True, "auto", "auto", "bfloat16"),
        (False, "auto", "auto", "float32"),
        (False, "auto", "bfloat16", "bfloat16"),
        (True, "auto", "float32", "float32"),
        (True, "axformer", "auto", "float32"),
    ],
)
def test_bfloat16_is_used_where_it_is_fast_and_losses_need_not_be_exact(
    run: Search, monkeypatch: pytest.MonkeyPatch, fast: bool, sampler: str, given: str, used: str
) -> None:
    monkeypatch.setattr("axsearch.running.search.is_fast", lambda device: fast)
    workers = watched(monkeypatch)
    run(trials=1, sampler=sampler, dtype=given)
    # It stays so where the study goes on, whatever is fast there.
    monkeypatch.setattr("axsearch.running.search.is_fast", lambda device: not fast)
    run(trials=2, sampler=sampler)
    assert [worker.evaluator.dtype for worker in workers] == [used, used]
    with pytest.raises(UsageError, match=r"another dtype|cannot go with the sampler axformer"):
        run(trials=2, sampler=sampler, dtype="float32" if used == "bfloat16" else "bfloat16")


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
        ({"max_latency_ratio": 0.9}, "another max latency ratio"),
        ({"max_size_ratio": 0.9}, "another max size ratio"),
        ({"compensation": "none"}, "another compensation"),
        ({"freeze": ("layer00",)}, "another search space"),
    ]
    for change, word in changes:
        with pytest.raises(UsageError, match=word):
            run(trials=2, **change)
    with monkeypatch.context() as patched:
        patched.setattr(Heads, "fractions", Heads.fractions[1:])
        patched.setattr(FfnNeurons, "fractions", (0.5,))
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
    card = (tmp_path / "small" / "README.md").read_text()
    assert f'base_model: "{base_dir.name}"' in card
    assert str(base_dir) not in card


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"freeze": ("layer77",)}, "layer77"),
        ({"data": "/no/such/data"}, "/no/such/data"),
        ({"task": "glue/stsb"}, "2 classes, which does not fit regression"),
        ({"metric": "pearson"}, "'pearson' does not fit text-classification"),
    ],
)
def test_what_only_model_or_data_show_is_refused_before_anything_is_measured(
    run: Search, change: dict[str, object], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axsearch.running.session.prepare", never)
    monkeypatch.setattr(Evaluator, "measure", never)
    with pytest.raises(UsageError, match=word):
        run(**change)


def test_a_base_that_is_no_better_than_a_constant_is_refused_before_anything_is_measured(
    run: Search,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever was misread: here the labels are swapped, and here the column is another one."""
    monkeypatch.setattr("axsearch.running.session.prepare", never)
    swapped = ("0=1", "1=0")
    with pytest.raises(UsageError, match="no better than one class for all") as caught:
        run(labels=swapped)
    message = str(caught.value)
    with pytest.raises(UsageError) as again:
        run(labels=swapped)
    assert str(again.value) == message
    for part in (
        "on the 80 search examples",
        'if its classes are in another order, so labels may be misread: give `labels="0=0,1=1"`',
        "reads text and, as the answer, label",
        "none is cut; 0.0% of the tokens are unknown",
        "`force=True`",
    ):
        assert part in message
    monkeypatch.undo()
    study = run(labels=swapped, force=True, trials=1)
    assert study.baseline.accuracy < 0.2
    assert "no better than one class for all" in " ".join(capsys.readouterr().err.split())
    run(labels=swapped, trials=2)  # it has been forced once


def test_limits_make_trials_infeasible_and_keep_them_off_the_front(run: Search) -> None:
    study = run(trials=13, max_drop=-0.001, max_latency_ratio=50.0)
    floor = study.baseline.accuracy + 0.001
    assert all(m.accuracy >= floor - 1e-9 for m in study.front())
    broken = [m for m in study.measurements if m.accuracy < floor]
    assert study.baseline in broken
    feasible = {t.number for t in study.optuna.best_trials}
    assert feasible.isdisjoint(m.trial for m in broken)


def test_a_second_search_measures_nothing_again(
    run: Search, uncalibrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(run, storage=uncalibrated)
    first, predictions = run(trials=3), Evaluator._predictions
    for name in CALIBRATIONS:
        monkeypatch.setattr(f"axsearch.calibration.preparation.{name}", never)
    monkeypatch.setattr("axsearch.evaluation.evaluator.measure_latency", never)
    monkeypatch.setattr("axsearch.evaluation.closed_form.measure_moments", never)
    monkeypatch.setattr(Evaluator, "_predictions", never)
    before = trials(first)
    assert trials(run(trials=3)) == before
    assert trials(run(trials=3, study="second")) == before  # nor another study of the same
    monkeypatch.setattr(Evaluator, "_predictions", predictions)
    monkeypatch.setattr("axsearch.evaluation.evaluator.measure_latency", measure_latency)
    assert trials(run(trials=5))[:3] == before  # more trials, but no calibration


@pytest.mark.parametrize("sampler", ["auto", "hat", "tpe", "nsga2"])
@pytest.mark.parametrize("limit", ["max_latency_ratio", "max_size_ratio"])
def test_what_is_known_to_be_above_a_limit_is_not_evaluated(
    run: Search, monkeypatch: pytest.MonkeyPatch, sampler: str, limit: str
) -> None:
    workers = watched(monkeypatch)
    evaluated: list[Recipe] = []
    predictions = Evaluator._predictions

    def see(self: Evaluator, model: Any, recipe: Recipe, *more: Any) -> object:
        evaluated.append(recipe)
        return predictions(self, model, recipe, *more)

    monkeypatch.setattr(Evaluator, "_predictions", see)
    study = run(trials=24, sampler=sampler, **{limit: 0.7})
    (worker,) = workers
    allowed = {
        worker.space.recipe(t.params).hash
        for t in study.optuna.trials
        if worker.problem.feasible(worker.problem.array(t.params)[None])[0]
    }
    assert len(evaluated) > 3
    assert {recipe.hash for recipe in evaluated[1:]} <= allowed
    assert evaluated[0] == Recipe.of({})
    assert all(m.latency_ratio > 0 for m in study.front())
    ratio = "objective_latency" if limit == "max_latency_ratio" else "size_ratio"
    assert study.front()
    assert all(getattr(m, ratio) <= 0.7 for m in study.front())
    cut = [t for t in study.optuna.trials if "reason" in t.user_attrs.get("stopped", {})]
    assert all(t.state == TrialState.PRUNED for t in cut)
    if sampler in ("auto", "hat"):
        assert not cut  # these ask for none such


def test_what_is_asked_for_above_a_limit_is_pruned_and_counts(
    run: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(problem: Problem) -> list[dict[str, int]]:
        exact = problem.space.exact()
        return [exact, {**exact, "layer01.ffn": 1}, {**exact, "layer02.ffn": 1}]

    monkeypatch.setattr("axsearch.running.worker.warm_start", ask)
    study = run(trials=3, max_size_ratio=0.5)
    states = [trial.state for trial in study.optuna.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    for trial in study.optuna.trials[1:]:
        assert trial.user_attrs["stopped"] == {"reason": "above a limit on latency or size"}
    assert [m.trial for m in study.measurements] == [0]
    assert study.front() == []


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_limits_are_constraints_of_optuna_s_and_of_its_dashboard_s(
    run: Search, sampler: str
) -> None:
    limits = {"max_drop": 0.1, "max_latency_ratio": 0.9, "max_size_ratio": 0.8}
    study = run(trials=18, sampler=sampler, **limits)
    complete = study.optuna.get_trials(states=(TrialState.COMPLETE,))
    floor = study.baseline.accuracy - 0.1
    for trial in complete:
        measured = study.trial(trial.number)
        excess = {
            "max_drop": floor - measured.accuracy,
            "max_latency_ratio": measured.objective_latency - 0.9,
            "max_size_ratio": measured.size_ratio - 0.8,
        }
        # Optuna adds what it finds in the old attribute, by number.
        named = {n: v for n, v in trial.constraints.items() if not n.isdecimal()}
        assert named == pytest.approx(excess)
        assert trial.system_attrs["constraints"] == pytest.approx(list(excess.values()))
    feasible = {
        t.number for t in complete if all(value <= 1e-12 for value in t.constraints.values())
    }
    assert 0 not in feasible
    assert {m.trial for m in study.front()} <= feasible
    assert {t.number for t in study.optuna.best_trials} <= feasible
    assert feasible


def test_trials_that_were_stopped_count_and_stay_off_the_front(
    run: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []
    predictions = Evaluator._predictions

    def stop(self: Evaluator, *args: Any) -> object:
        threshold: Threshold | None = args[-1]
        if threshold is not None and threshold.rival.startswith("trial ") and len(told) < 4:
            told.append(1)
            seen = Outcome("mean", np.ones(32, bool))
            raise DominatedError(32, Estimate(0.6, 0.5, 0.7), threshold.rival, seen)
        return predictions(self, *args[:-1], None)

    monkeypatch.setattr(Evaluator, "_predictions", stop)
    study = run(trials=16)
    assert "4 of all trials were pruned: above a limit" in capsys.readouterr().err
    stopped = study.optuna.get_trials(states=(TrialState.PRUNED,))
    assert len(told) == len(stopped) == 4
    assert len(study.measurements) == 12
    assert len(study.optuna.trials) == 16
    for trial in stopped:
        seen = dict(trial.user_attrs["stopped"])
        rival = study.trial(int(seen.pop("dominated_by").removeprefix("trial ")))
        assert seen == {"examples": 32, "value": 0.6, "low": 0.5, "high": 0.7}
        assert rival.trial < trial.number
        assert len(trial.user_attrs["recipe"]) == 64
        assert trial.values is None
        with pytest.raises(UsageError, match="no finished trial"):
            study.trial(trial.number)
    assert {m.trial for m in study.front()}.isdisjoint(t.number for t in stopped)
    assert run(trials=16).optuna.trials[-1].number == 15  # they count when it is resumed too


def test_the_bar_is_above_the_best_that_costs_no_more(finished: tuple[str, Study]) -> None:
    storage, study = finished
    worker = WORKERS[storage]
    floor = worker.problem.reference(study.baseline.accuracy)
    by_number = {m.trial: m.accuracy for m in (study.baseline, *worker.standing.front)}
    accuracies = [by_number[number] for number in sorted(by_number)]
    for latency, size in [
        *((m.objective_latency or 0.0, m.size_ratio) for m in study.measurements), (0.0, 0.0),
    ]:  # fmt: skip
        cheaper = [
            m
            for m in worker.standing.front
            if m.objective_latency <= latency and m.size_ratio <= size
        ]
        threshold = worker.objective.threshold(latency, size)
        best = max((m.accuracy for m in cheaper), default=floor)
        assert best <= threshold.value <= max(*accuracies, floor) + 0.0201
        # Whatever order they have on the front, which their measured latencies change.
        assert [known.values.mean() for known in threshold.known] == accuracies
        if not cheaper:
            assert threshold.rival == "the least that counts"
            continue
        (rival,) = (m for m in cheaper if threshold.rival == f"trial {m.trial}")
        assert rival.accuracy == best
    worker.standing._front = worker.standing.front[::-1]
    again = worker.objective.threshold(0.0, 0.0)
    assert [known.values.mean() for known in again.known] == accuracies


@pytest.mark.parametrize(
    ("sampler", "total", "first"), [("auto", 24, 19), ("hat", 20, 17), ("axformer", 14, 6)]
)
def test_a_resumed_study_is_as_one_that_was_not_interrupted(
    run: Search, sampler: str, total: int, first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trials(run(trials=total, sampler=sampler, study="uninterrupted"))
    assert "sampler, storage and dashboard took" in capsys.readouterr().err
    run(trials=3, sampler=sampler)
    run(trials=first, sampler=sampler)
    resumed = trials(run(trials=total, sampler=sampler))
    assert len(resumed) == total
    assert resumed == whole


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_a_study_interrupted_within_a_trial_goes_on_as_if_it_had_not_been(
    run: Search, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished_trials(study: Study) -> list[tuple[object, ...]]:
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return [(t.params, t.values) for t in study.optuna.get_trials(states=states)]

    whole = finished_trials(run(trials=20, sampler=sampler, study="uninterrupted"))
    measure = Evaluator.measure

    def stopped(self: Evaluator, recipe: Recipe, **kwargs: Any) -> Measurement:
        if kwargs.get("trial") == 18:
            raise KeyboardInterrupt
        return measure(self, recipe, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(trials=20, sampler=sampler)
    resumed = run(trials=20, sampler=sampler)
    assert finished_trials(resumed) == whole
    assert [t.state for t in resumed.optuna.trials].count(TrialState.FAIL) == 1


def test_axformer_may_go_through_models_above_a_limit(run: Search) -> None:
    given = {"sampler": "axformer", "freeze": ("layer00", "layer01")}
    study = run(trials=500, max_size_ratio=0.5, **given)
    assert len(study.measurements) > 3
    assert study.front() == []
    assert all(t.constraints["max_size_ratio"] > 0 for t in study.optuna.trials)


def test_axformer_uses_masks_and_ends_by_itself(
    run: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"sampler": "axformer", "freeze": ("layer00", "layer01.attention", "layer01.ffn")}
    study = run(trials=500, **given)
    assert "has made all its steps" in capsys.readouterr().err
    assert study.spec.compensation == "none"
    count = len(study.optuna.trials)
    assert 3 < count < 200
    assert all(t.state == TrialState.COMPLETE for t in study.optuna.trials)  # nothing is stopped
    for trial in study.optuna.trials:
        assert {"mean_loss", "not_worse", "divergence"} <= set(trial.user_attrs)
    assert all(Recipe.from_dict(m.recipe).compensation == "none" for m in study.measurements)
    assert study.optuna.trials[0].user_attrs["not_worse"] == 1.0
    assert study.optuna.trials[0].user_attrs["divergence"] == 0.0
    assert len(run(trials=500, **given).optuna.trials) == count


def test_what_a_trial_tells_of_its_losses(finished: tuple[str, Study]) -> None:
    storage, study = finished
    evaluator = WORKERS[storage].evaluator
    base = evaluator.losses(Recipe.of({})).astype(float)
    for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,)):
        losses = evaluator.losses(Recipe.from_dict(study.trial(trial.number).recipe)).astype(float)
        assert trial.user_attrs["mean_loss"] == pytest.approx(losses.mean())
        assert trial.user_attrs["not_worse"] == pytest.approx((losses <= base).mean())
        right, wrong = np.exp(-losses), 1 - np.exp(-losses)
        theirs = np.exp(-base)
        kl = theirs * np.log(theirs / right) + (1 - theirs) * np.log((1 - theirs) / wrong)
        assert trial.user_attrs["divergence"] == pytest.approx(kl.mean(), rel=1e-2, abs=1e-4)


def test_others_see_what_runs(run: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Evaluator.measure
    seen: list[str] = []

    def look(self: Evaluator, recipe: Recipe, **kwargs: Any) -> Measurement:
        if kwargs.get("trial") is not None:
            other = Study.open(self.engine.url.render_as_string(hide_password=False), "tiny")
            running = other.optuna.get_trials(states=(TrialState.RUNNING,))
            assert [t.user_attrs for t in running] == [{"recipe": recipe.hash}]
            assert running[0].params
            other.database.close()
            seen.append(recipe.hash)
        return measure(self, recipe, **kwargs)

    monkeypatch.setattr(Evaluator, "measure", look)
    run(trials=3)
    assert len(seen) == 3


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "latency")], ids=len)
def test_fewer_objectives(run: Search, objectives: tuple[str, ...]) -> None:
    study = run(trials=20, objectives=objectives)
    assert len(study.optuna.trials) == 20
    assert study.front()
    assert all(len(t.values) == len(objectives) for t in study.optuna.best_trials)


def test_without_latency_nothing_is_timed(
    run: Search, uncalibrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axsearch.evaluation.evaluator.measure_latency", never)
    monkeypatch.setattr("axsearch.calibration.preparation.measure_latency_table", never)
    study = run(trials=3, objectives=("accuracy", "size"), storage=uncalibrated)
    assert all(m.latency_ratio is None for m in study.measurements)
    assert study.pick(max_drop=1.0, by="size").size_ratio < 1
    with pytest.raises(UsageError, match='`by="size"`'):
        study.pick(max_drop=1.0, by="latency")


def test_accuracy_and_size_are_those_of_the_real_smaller_model(finished: tuple[str, Study]) -> None:
    """Recomputed from the recipe alone, by another way than the evaluator's."""
    import torch

    from axsearch import Task, shrink

    _, study = finished
    task = Task.load(study.spec.model, study.spec.data)
    moments = measure_moments(Base(task.model), task.calibration, task.kind)
    for member in study.front()[:3]:
        model = shrink(task.model, Recipe.from_dict(member.recipe), moments)
        right = []
        with torch.inference_mode():
            for example, label in zip(task.search.inputs, task.search.targets, strict=True):
                one = {key: torch.tensor([value]) for key, value in example.items()}
                right.append(int(model(**one).logits.argmax()) == label)
        assert np.mean(right) == pytest.approx(member.accuracy, abs=1e-12)
        assert sum(p.numel() for p in model.parameters()) == member.parameters
