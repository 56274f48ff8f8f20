"""The models of a front are refitted on more examples, and shown as these are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import text

from axsearch import Evaluator, Study, export_model, search
from axsearch.cli.front import POLISHED, print_front
from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import NonFiniteError
from axsearch.evaluation.closed_form import (
    closed_form,
    pays_to_polish,
    polished,
    polished_key,
)
from axsearch.evaluation.loading import load_task
from axsearch.models.refit.sample import POLISHING, SampleSize
from axsearch.running.finishing import finish_front
from axsearch.running.holdout import evaluate_front
from axsearch.running.polishing import polish_front
from axsearch.space.recipe import Recipe
from axsearch.store.artifacts import PREFIX, attached
from axsearch.testing.latency import MEASURE, table_by_units
from tests.common_fixtures import copied

NAME = "polished"
FEW = SampleSize(examples=24, tokens=1000)


@pytest.fixture(scope="module")
def first(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a study of five trials whose trials were refitted on few examples."""
    url = f"sqlite:///{tmp_path_factory.mktemp('polished') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)
        patched.setattr("axsearch.reporting.dashboard.annotating.annotate", lambda study: None)
        patched.setattr("axsearch.evaluation.closed_form.TRIAL", FEW)
        search(str(base_dir), str(data_dir), **asked(url))
    return url


def asked(url: str, trials: int = 5) -> Any:
    return {
        "storage": url, "study": NAME, "trials": trials, "batch_size": 4, "threads": 1,
        "approximations": ("heads", "ffn"), "compensation": "sequential",
    }  # fmt: skip


@pytest.fixture
def study(first: str, tmp_path: Path) -> Study:
    return Study.open(copied(first, tmp_path), NAME)


def rows(study: Study, table: str) -> list[tuple[Any, ...]]:
    with study.database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]


def forgotten(study: Study) -> None:
    """Delete what was polished."""
    with study.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM ax_evaluations WHERE weights <> ''"))
    study.refresh()


def evaluator(study: Study) -> Evaluator:
    return Evaluator(load_task(study.spec), study.database.engine, None)


def test_the_front_is_that_of_polished_models(study: Study) -> None:
    task = load_task(study.spec)
    assert study.spec.polished == polished_key(task)
    members = [m for m in study.front() if m.recipe != study.baseline.recipe]
    assert members
    by_hand = Evaluator(task, study.database.engine, None, weights=polished(task, "cpu"))
    for member in members:
        recipe = Recipe.from_dict(member.recipe)
        answers = by_hand.predictor.predict(by_hand.weights.shrink(recipe), task.search).answers
        found = task.kind.outcome(task.metric, task.search, answers)
        assert member.accuracy == pytest.approx(found.values.mean())
        trial = study.frozen([member.trial or 0])[member.trial or 0]
        assert member.accuracy_tried == pytest.approx(trial.values[0])
        assert study.trial(member.trial or 0) == member
        assert study.outcomes([recipe])[recipe.hash].value == member.accuracy


def test_models_that_a_polished_one_no_longer_beats_are_polished_in_turn(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten(study)
    before = {m.trial for m in study.front()}
    measured = Study.measured

    def found(self: Study, *args: Any, **named: Any) -> Any:
        return [
            m.model_copy(update={"accuracy": 0.0, "accuracy_low": 0.0})
            if m.trial in before and m.accuracy_tried is not None
            else m
            for m in measured(self, *args, **named)
        ]

    monkeypatch.setattr(Study, "measured", found)
    study.refresh()
    assert {m.trial for m in study.front()} == before
    polish_front(study, evaluator(study))
    some = study.front()  # of what the database says can be on it
    assert "measurements" not in vars(study)
    assert study.measurements
    assert study.front() == some
    others = [m for m in study.front() if m.trial not in before]
    assert others
    assert all(m.accuracy_tried is not None for m in others if m.recipe != study.baseline.recipe)
    assert any(m.accuracy_tried is not None for m in others)


def test_the_front_is_timed_after_it_was_polished_until_nothing_is_new(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, timed = [2, 1, 0], []
    monkeypatch.setattr("axsearch.running.polishing.polish_front", lambda *_: left.pop(0))
    monkeypatch.setattr(
        "axsearch.running.finishing.time_front",
        lambda _, front, machine: timed.append([m.trial for m in front]),
    )
    finish_front(study, evaluator(study))
    assert left == []
    assert timed == 3 * [[m.trial for m in study.front()]]


def test_models_that_are_new_on_the_front_get_their_files(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = study.database.engine
    files = [*attached(engine, study.id)]
    newest, other = sorted({file.trial for file in files})[-1:-3:-1]
    with engine.begin() as connection:
        for file in files:
            if file.trial == newest:
                connection.execute(
                    text("DELETE FROM trial_system_attributes WHERE key = :key"),
                    {"key": PREFIX + file.id},
                )
            elif file.trial == other:  # removed in the dashboard, which it stays
                connection.execute(
                    text("UPDATE trial_system_attributes SET value_json = :gone WHERE key = :key"),
                    {"gone": json.dumps("null"), "key": PREFIX + file.id},
                )
    before = {file.id for file in attached(engine, study.id)}
    new = [m for m in study.measurements if m.trial == newest]
    monkeypatch.setattr("axsearch.running.polishing.polish_front", lambda *_: 0)
    monkeypatch.setattr("axsearch.running.finishing.time_front", lambda *_: None)
    monkeypatch.setattr(Study, "front", lambda self: self.measurements)
    for _ in range(2):
        finish_front(study, evaluator(study))
        added = [file for file in attached(engine, study.id) if file.id not in before]
        assert sorted((file.trial, file.name) for file in added) == sorted(
            (m.trial, name) for m in new for name in ("recipe.json", "layers.csv")
        )
    recipes = {file.trial: json.loads(file.data) for file in added if file.name == "recipe.json"}
    for member in new:
        recipe = Recipe.from_dict(member.recipe)
        assert recipes[member.trial or 0] == {**recipe.to_dict(), "sha256": recipe.hash}


def test_the_front_says_that_it_is(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    print_front(study)
    said = " ".join(capsys.readouterr().out.split())
    assert POLISHED in said
    forgotten(study)
    print_front(study)
    assert POLISHED not in " ".join(capsys.readouterr().out.split())


def test_polished_weights_are_others_than_a_trial_s(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axsearch.evaluation.closed_form.TRIAL", FEW)
    task = load_task(study.spec)
    recipe = Recipe.from_dict(study.front()[0].recipe)
    few, many = closed_form(task, "cpu").state(recipe), polished(task, "cpu").state(recipe)
    assert {name: t.shape for name, t in few.items()} == {name: t.shape for name, t in many.items()}
    assert any(not torch.equal(few[name], many[name]) for name in few)


def test_a_search_that_goes_on_polishes_only_what_is_new(
    study: Study, base_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    monkeypatch.setattr("axsearch.reporting.dashboard.annotating.annotate", lambda study: None)
    url = str(study.database.engine.url)
    before = rows(study, "ax_evaluations")
    found = search(str(base_dir), str(data_dir), **asked(url))
    assert rows(found, "ax_evaluations") == before
    forgotten(study)
    assert all(m.accuracy_tried is None for m in study.measurements)
    search(str(base_dir), str(data_dir), **asked(url))
    study.refresh()
    assert len(rows(study, "ax_evaluations")) == len(before)
    assert all(m.accuracy_tried is not None for m in study.front() if m != study.baseline)


def test_what_was_polished_before_an_interruption_is_kept(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forgotten(study)
    monkeypatch.setattr(Study, "front", lambda self: self.measurements)
    done: list[Recipe] = []
    accuracy = Evaluator.accuracy

    def stopped(self: Evaluator, recipe: Recipe, *args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(recipe)
        return accuracy(self, recipe, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "accuracy", stopped)
        with pytest.raises(KeyboardInterrupt):
            polish_front(study, evaluator(study))
    assert {*study.polished([recipe.hash for recipe in done])} == {one.hash for one in done}
    count = sum(m.recipe.get("compensation") == "sequential" for m in study.measurements)
    assert count > 2
    assert "polished" not in capsys.readouterr().err
    assert polish_front(study, evaluator(study)) == count - 2
    assert polished_in(capsys.readouterr().err) == [count - 2]
    assert polish_front(study, evaluator(study)) == 0
    assert polished_in(capsys.readouterr().err) == []


def polished_in(said: str) -> list[int]:
    """How many models were polished, by each line that says so."""
    line = r"^(\d+) models? of the front polished in \d+ s\.$"
    return [int(found) for found in re.findall(line, said, re.MULTILINE)]


def test_a_model_with_numbers_that_are_not_finite_is_not_counted(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forgotten(study)
    first = next(Recipe.from_dict(m.recipe) for m in study.front() if m != study.baseline)
    front = [m for m in study.measurements if m.recipe == first.to_dict()]
    monkeypatch.setattr(Study, "front", lambda self: front)

    def broken(*_: Any) -> Any:
        raise NonFiniteError("The model's logits are not finite.")

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "accuracy", broken)
        assert polish_front(study, evaluator(study)) == 0
    said = capsys.readouterr().err
    assert "not finite; it stays as it is" in " ".join(said.split())
    assert polished_in(said) == [0]
    assert polish_front(study, evaluator(study)) == 1
    assert "1 model of the front polished in" in capsys.readouterr().err


def test_holdout_and_export_are_those_of_polished_models(study: Study, tmp_path: Path) -> None:
    evaluate_front(study)
    member = study.front()[0]
    recipe = Recipe.from_dict(member.recipe)
    task = load_task(study.spec)
    weights = polished(task, "cpu")
    answers = evaluator(study).predictor.predict(weights.shrink(recipe), task.holdout).answers
    wanted = task.kind.outcome(task.metric, task.holdout, answers).values.mean()
    assert member.holdout_accuracy == pytest.approx(wanted)
    assert study.holdout([member])[member.trial or 0].value == pytest.approx(wanted)
    folder = export_model(study, member.trial or 0, str(tmp_path / "small"))
    written, state = load_file(folder / "model.safetensors"), weights.state(recipe)
    assert all(torch.equal(tensor, state[name]) for name, tensor in written.items())
    about = json.dumps(rows(study, "ax_exports"), default=str)
    assert study.spec.polished in about
    half = export_model(study, member.trial or 0, str(tmp_path / "half"), dtype="float16")
    assert load_file(half / "model.safetensors").keys() == written.keys()


def test_an_export_needs_no_calibration_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("examples were measured again")

    forgotten(study)
    polish_front(study, evaluator(study))
    member = next(m for m in study.front() if m.choices)
    with monkeypatch.context() as patched:
        patched.setattr("axsearch.evaluation.closed_form.measure_sample", never)
        kept = export_model(study, member.trial or 0, str(tmp_path / "kept"))
        evaluate_front(study)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    anew = export_model(study, member.trial or 0, str(tmp_path / "anew"))
    first, second = (load_file(folder / "model.safetensors") for folder in (kept, anew))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_other_training_data_are_refused(study: Study) -> None:
    study.spec = study.spec.model_copy(update={"polished": "0" * 64})
    with pytest.raises(UsageError, match=r"The training data in .* are not those"):
        polish_front(study, evaluator(study))


def test_it_is_done_where_it_takes_more_tokens_than_a_trial(
    study: Study, base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(study.spec)
    whole = int(task.training.lengths.sum())
    assert len(task.training) < POLISHING.examples
    trial = "axsearch.evaluation.closed_form.TRIAL"
    for share, pays in ((0.5, True), (0.9, False)):
        monkeypatch.setattr(trial, SampleSize(10**6, int(share * whole)))
        assert pays_to_polish(task) is pays
    monkeypatch.setattr(MEASURE, table_by_units)
    monkeypatch.setattr("axsearch.reporting.dashboard.annotating.annotate", lambda study: None)
    long = search(str(base_dir), str(data_dir), **asked(f"sqlite:///{tmp_path / 'long.db'}", 2))
    assert long.spec.polished == ""
    assert all(member.accuracy_tried is None for member in long.front())


def test_models_that_are_not_refitted_sequentially_are_not_polished(
    tiny_study: tuple[str, str], tmp_path: Path
) -> None:
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    assert study.spec.polished == ""
    before = [m.model_dump() for m in study.front()]
    assert polish_front(study, evaluator(study)) == 0
    assert [m.model_dump() for m in study.front()] == before


def test_what_trials_kept_to_be_quick_is_freed_first(study: Study) -> None:
    searching = evaluator(study)
    recipe = next(Recipe.from_dict(m.recipe) for m in study.front() if m.choices)
    searching.weights.state(recipe)
    kept = searching.reference._sequential
    assert kept._base_layers
    forgotten(study)
    assert polish_front(study, searching) > 0
    assert not kept._base_layers
