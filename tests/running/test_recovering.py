"""Models of a study are trained further, and are trials of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from sqlalchemy import text
from transformers import AutoModelForSequenceClassification

import axsearch.running.recovering as recovering
from axsearch import (
    Evaluator,
    Recipe,
    Study,
    UsageError,
    export_model,
    recover,
    search,
    shrink,
    verify_export,
    write_report,
)
from axsearch.evaluation.accuracy import NonFiniteError, predict
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.evaluation.trained import read_trained
from axsearch.running.finishing import time_front
from axsearch.running.holdout import evaluate_front
from axsearch.running.recovered_trials import Recovered
from axsearch.store.trained_weights import weights_store
from axsearch.study.comparison import ties
from axsearch.system.cache import private_folder
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.text import reviews
from axsearch.training.lesson import Teacher
from axsearch.training.recovery import NotFiniteError, Pupil, Run, own_copy, train
from tests.common_fixtures import copied

NAME = "recovered"
QUICK: Any = {"epochs": 2, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def searched(base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a study of twelve trials."""
    url = f"sqlite:///{tmp_path_factory.mktemp('recovered') / 'studies.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, table_by_units)
        search(str(base_dir), str(data_dir), **asked(url))
    return url


def asked(url: str, trials: int = 12) -> Any:
    return {
        "storage": url, "study": NAME, "trials": trials, "batch_size": 4, "threads": 1,
        "approximations": ("heads", "ffn", "layer"), "compensation": "none",
    }  # fmt: skip


@pytest.fixture
def study(searched: str, tmp_path: Path) -> Study:
    return Study.open(copied(searched, tmp_path), NAME)


def smallest(study: Study) -> int:
    """The trial of the smallest model."""
    found = min(study.measurements, key=lambda m: m.size_bytes).trial
    assert found is not None
    return found


def test_a_recovered_model_is_a_trial_of_its_own(study: Study) -> None:
    number = smallest(study)
    before, count = study.trial(number), study.count
    (found,) = recover(study, trial=number, **QUICK)
    assert found.before == before
    assert study.count == count + 1
    after = study.trial(found.trial)
    assert after == found.after
    assert after.recovered_from == number
    assert after.label == f"{found.trial} (from {number})"
    assert study.trial(number) == before  # as it was cut it stays
    recipe, source = Recipe.from_dict(after.recipe), Recipe.from_dict(before.recipe)
    assert recipe.sites == source.sites
    assert recipe.hash != source.hash
    assert recipe.compensation == "none"
    assert (after.size_bytes, after.choices) == (before.size_bytes, before.choices)
    trial = study.frozen([found.trial])[found.trial]
    assert trial.params == study.frozen([number])[number].params
    # Its accuracy is that of its weights, read from their file.
    task = load_task(study.spec)
    weights = Evaluator(task, study.database.engine, None).weights
    answers = predict(weights.shrink(recipe), task.search, task.kind)
    outcome = task.kind.outcome(task.metric, task.search, answers)
    assert after.accuracy == pytest.approx(outcome.values.mean())
    assert trial.values[0] == after.accuracy
    # They are the cut ones but for what was trained.
    trained, cut = weights.state(recipe), task.base.cut(source)
    assert trained.keys() == cut.keys()
    word = next(name for name in cut if name.endswith("word_embeddings.weight"))
    assert (trained[word] == cut[word]).all()
    assert not all((trained[name] == cut[name]).all() for name in cut)


def test_training_brings_a_model_nearer_to_the_base(study: Study) -> None:
    number = smallest(study)
    (found,) = recover(study, trial=number, **QUICK)
    made = weights_store(study.database.engine).made(found.after.recipe["recovery"])
    assert made is not None
    assert made["loss"] < made["loss_before"]
    assert made["label_weight"] == 1.0
    assert (made["trial"], made["epochs"], made["seed"]) == (number, 2, 0)
    losses = study.outcomes([Recipe.from_dict(m.recipe) for m in (found.before, found.after)])
    before, after = (
        np.mean(losses[Recipe.from_dict(m.recipe).hash].losses) for m in (found.before, found.after)
    )
    assert after < before


def test_more_texts_make_other_weights(study: Study, tmp_path: Path) -> None:
    number, more = smallest(study), tmp_path / "more.txt"
    more.write_text("\n".join(text for text, _ in reviews(60, 9)))
    (with_more,) = recover(study, trial=number, unlabelled=str(more), **QUICK)
    (without,) = recover(study, trial=number, **QUICK)
    assert with_more.trial != without.trial
    store = weights_store(study.database.engine)
    steps = [
        (store.made(one.after.recipe["recovery"]) or {})["steps"] for one in (with_more, without)
    ]
    assert steps[0] > steps[1]
    # Where the file lies does not matter.
    (again,) = recover(
        study, trial=number, unlabelled=str(more.rename(tmp_path / "moved.txt")), **QUICK
    )
    assert again.trial == with_more.trial


def test_the_control_is_the_base_trained_on_the_labels(study: Study) -> None:
    base = study.baseline
    assert base.trial is not None
    found = recover(study, trial=base.trial, epochs=2, learning_rate=3e-3)
    task = load_task(study.spec)
    lesson, kind = Teacher(task, "cpu").lesson(Recipe.of({})), task.kind
    folder = private_folder("control")
    pupil = Pupil(kind, task.base, task.base.plan(Recipe.of({})).layers, plain=True)
    model = own_copy(task.model)
    made = train(model, lesson, pupil, Run(folder, 3e-3, 2, 0), "cpu")
    rows = np.arange(len(lesson.held))
    with torch.inference_mode():
        losses = [
            float(kind.losses(kind.logits(one(**lesson.held.collate(rows))), targets).mean())
            for one in (task.model, model.eval())
            for targets in [lesson.held.collate_targets(rows)]
        ]
    assert made.before == pytest.approx(losses[0], rel=1e-3)
    assert made.loss == pytest.approx(losses[1], rel=1e-3)
    (one,) = found  # whether it is better or not
    with pytest.raises(UsageError, match=f"name the trial that it was made from, {base.trial}"):
        recover(study, trial=one.trial, **QUICK)
    assert (one.after.recovered_from, one.after.size_ratio) == (base.trial, 1.0)
    assert one.after.choices == base.choices


def test_nothing_is_trained_twice(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    number = smallest(study)
    (first,) = recover(study, trial=number, **QUICK)
    monkeypatch.setattr(recovering, "train_model", None)
    (again,) = recover(study, trial=number, **QUICK)
    assert again.trial == first.trial
    # Weights that were kept when the process died before its trial was written are used.
    with study.database.engine.begin() as connection:
        trial = {"id": study.database.storage.get_trial_id_from_study_id_trial_number(
            study.id, first.trial
        )}  # fmt: skip
        connection.execute(text("DELETE FROM ax_trials WHERE trial_id = :id"), trial)
        for table in ("trial_values", "trial_params", "trial_user_attributes", "trials"):
            connection.execute(text(f"DELETE FROM {table} WHERE trial_id = :id"), trial)
    reopened = Study.of(study.database, NAME)
    (found,) = recover(reopened, trial=number, **QUICK)
    assert found.after.accuracy == first.after.accuracy


def test_other_settings_are_another_model(study: Study) -> None:
    number = smallest(study)
    (first,) = recover(study, trial=number, **QUICK)
    (other,) = recover(study, trial=number, epochs=1, learning_rate=1e-3)
    assert first.trial != other.trial
    # A recovered model can be trained further.
    (further,) = recover(study, trial=first.trial, **QUICK)
    assert further.after.recovered_from == first.trial


def test_the_front_its_ties_and_the_holdout_split_have_both(study: Study) -> None:
    before = {m.trial for m in study.front()}
    found = recover(study, front=True, **QUICK)
    cut = {one.before.trial for one in found}
    assert cut == before - {study.baseline.trial}
    front = study.front()
    members = {m.trial for m in front}
    assert members & {one.trial for one in found}
    evaluate_front(study)
    held = study.holdout(study.front())
    assert set(held) >= members
    known = ties(study)
    assert known is not None
    assert set(known.against_base) >= members - {study.baseline.trial}
    with study.database.engine.connect() as connection:
        rows = connection.execute(text("SELECT trial, recovered_from FROM ax_front")).all()
    shown = {row.trial: row.recovered_from for row in rows}
    assert {t for t, origin in shown.items() if origin is not None} <= {one.trial for one in found}
    assert any(origin is not None for origin in shown.values())
    # What is on the front is timed, as everything is.
    assert all(m.latency_measured for m in front)


def test_a_search_goes_on_as_if_there_were_no_recovered_models(
    searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, table_by_units)
    urls = []
    for name in ("plain", "other"):
        (tmp_path / name).mkdir()
        urls.append(copied(searched, tmp_path / name))
    plain, other = urls
    study = Study.open(other, NAME)
    recover(study, trial=smallest(study), **QUICK)
    study.database.close()
    spec = study.spec
    found = []
    for url in (plain, other):
        done = search(spec.model, spec.data, **asked(url, 15))
        trials = done.optuna.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        found.append([t.params for t in trials if "recovered_from" not in t.user_attrs])
    assert len(found[0]) >= 13
    assert found[0] == found[1]


def test_recovered_models_are_exported_with_their_weights(study: Study, tmp_path: Path) -> None:
    (found,) = recover(study, trial=smallest(study), **QUICK)
    folder = export_model(study, found.trial, str(tmp_path / "small"), force=True)
    assert verify_export(str(folder)).difference <= 1e-5
    recipe = Recipe.from_dict(found.after.recipe)
    assert Recipe.read(folder / "recipe.json") == recipe
    task = load_task(study.spec)
    own = Evaluator(task, study.database.engine, None).weights.state(recipe)
    written = load_file(folder / "model.safetensors")
    assert all((written[name] == own[name]).all() for name in own)
    assert "trained further" in (folder / "README.md").read_text()
    opened = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    assert sum(p.numel() for p in opened.parameters()) == found.after.parameters


def test_missing_and_changed_weights_are_named(study: Study, tmp_path: Path) -> None:
    (found,) = recover(study, trial=smallest(study), **QUICK)
    recipe = Recipe.from_dict(found.after.recipe)
    with pytest.raises(UsageError, match="were trained"):
        shrink(load_task(study.spec).model, recipe)
    folder = next(tmp_path.glob("*.weights"))
    file = next(path for path in folder.rglob("*") if path.is_file())
    file.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="AXSEARCH_WEIGHTS"):
        export_model(study, found.trial, str(tmp_path / "small"), force=True)
    assert not (tmp_path / "small").exists()


def test_a_stop_keeps_the_best_so_far_and_the_next_call_goes_on(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    number = smallest(study)
    whole: Any = {"epochs": 4, "learning_rate": 2e-3}
    shown = recovering.counted

    def stopping(*of: str) -> Any:
        context = shown(*of)
        told = context.__enter__()

        def tell(done: int, planned: int) -> None:
            told(done, planned)
            if done == planned // 2:
                signal_arrives()

        class Context:
            __enter__ = staticmethod(lambda: tell)
            __exit__ = context.__exit__

        return Context()

    def signal_arrives() -> None:
        open_ones = recovering.Interrupts.__init__.__globals__["_open"]
        open_ones[-1].stopped = True

    monkeypatch.setattr(recovering, "counted", stopping)
    with pytest.raises(KeyboardInterrupt):
        recover(study, trial=number, **whole)
    (kept,) = [m for m in study.measurements if m.recovered_from == number]
    monkeypatch.setattr(recovering, "counted", shown)
    (found,) = recover(study, trial=number, **whole)
    assert found.trial != kept.trial
    store = weights_store(study.database.engine)
    half, full = (store.made(m.recipe["recovery"]) for m in (kept, found.after))
    assert half is not None
    assert full is not None
    assert half["stopped_after"] == half["steps"] == full["steps"] // 2
    # The weights are those of a training that nobody stopped.
    task = load_task(study.spec)
    own = store_state(study, found.after.recipe["recovery"])
    source = Recipe.from_dict(found.before.recipe)
    teacher, model = Teacher(task, "cpu"), shrink(task.model, source)
    pupil = Pupil(task.kind, task.base, task.base.plan(source).layers)
    run = Run(tmp_path / "whole", 2e-3, 4, 0)
    undisturbed = train(own_copy(model), teacher.lesson(source), pupil, run, "cpu").state
    assert all((own[name] == undisturbed[name]).all() for name in undisturbed)


def store_state(study: Study, key: str) -> dict[str, torch.Tensor]:
    return read_trained(study.database.engine, key)


def test_lost_weights_are_trained_again(study: Study, tmp_path: Path) -> None:
    number = smallest(study)
    (first,) = recover(study, trial=number, **QUICK)
    key = first.after.recipe["recovery"]
    before = store_state(study, key)
    file = next(path for path in tmp_path.rglob("*.weights/**/*") if path.is_file())
    file.unlink()
    (again,) = recover(study, trial=number, **QUICK)
    assert again.trial == first.trial
    assert again.seconds > 0
    after = store_state(study, key)
    assert all((after[name] == before[name]).all() for name in before)


def test_a_front_is_the_same_one_however_much_of_it_is_recovered(study: Study) -> None:
    wanted = [m.trial for m in study.front_as_cut()]
    found = recover(study, front=True, **QUICK)
    assert [m.trial for m in study.front_as_cut()] == wanted
    again = recover(study, front=True, **QUICK)
    assert [one.trial for one in again] == [one.trial for one in found]


def test_a_search_does_without_weights_that_are_missing(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (found,) = recover(study, trial=smallest(study), **QUICK)
    for file in [path for path in tmp_path.rglob("*.weights/**/*") if path.is_file()]:
        file.unlink()
    with study.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM ax_latencies WHERE recipe = :own"), {
            "own": Recipe.from_dict(found.after.recipe).hash,
        })  # fmt: skip
    evaluator = Evaluator(load_task(study.spec), study.database.engine, study.spec.scenario)
    time_front(evaluator, [found.after], study.spec.machine)
    assert f"Trial {found.trial} is not timed" in capfd.readouterr().err


def test_a_soup_is_never_worse_than_its_best_member_on_search(study: Study) -> None:
    number = smallest(study)
    found = recover(study, trial=number, **QUICK, soup=3, seed=5)
    store = weights_store(study.database.engine)
    made = [store.made(one.after.recipe["recovery"]) for one in found]
    members = [one for one in made if one is not None and "seed" in one]
    assert sorted(one["seed"] for one in members) == [5, 6, 7]
    assert len({one["learning_rate"] for one in members}) == 1
    best = max(one.after.accuracy for one in found[: len(members)])
    assert found[-1].after.accuracy >= best
    if len(found) > len(members):
        task = load_task(study.spec)
        weights = Evaluator(task, study.database.engine, None).weights
        of = [
            weights.state(Recipe.from_dict(one.after.recipe))
            for one in found[:-1]
            if one.after.recipe["recovery"] in made[-1]["soup_of"]
        ]
        soup = weights.state(Recipe.from_dict(found[-1].after.recipe))
        name = next(name for name in soup if name.endswith("query.weight"))
        expected = sum(state[name] for state in of) / len(of)
        torch.testing.assert_close(soup[name], expected)
    # Asked for again, nothing is trained.
    again = recover(study, trial=number, **QUICK, soup=3, seed=5)
    assert [one.trial for one in again] == [one.trial for one in found]


def test_what_another_process_trains_is_left_for_last(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [m.trial for m in study.front() if m.recipe != study.baseline.recipe]
    assert len(wanted) >= 2
    folder, asked_for = recovering.run_folder, []

    @contextmanager
    def busy(key: str, *, wait: bool, check: Any) -> Iterator[Path]:
        asked_for.append((key, wait))
        cache = private_folder("recovery")
        assert cache is not None
        first = len(asked_for) == 1
        other = FileLock(cache / f"{key}.lock") if first else nullcontext()
        with other, folder(key, wait=wait, check=check) as found:
            yield found

    monkeypatch.setattr(recovering, "run_folder", busy)
    found = recover(study, front=True, **QUICK)
    assert [one.before.trial for one in found] == [*wanted[1:], wanted[0]]
    assert asked_for[-1] == (asked_for[0][0], True)
    assert not any(wait for _, wait in asked_for[:-1])


def test_halving_finds_the_fastest_within_a_drop(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = [m for m in study.front() if m.recipe != study.baseline.recipe]
    found = recover(study, max_drop=0.999, **QUICK)  # which all keep
    tried = [one.before.trial for one in found]
    assert tried[-1] == front[0].trial
    assert len(tried) <= int(np.log2(len(front))) + 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "one of `trial`, `front`, `candidates` and `max_drop`"),
        ({"trial": 1, "front": True}, "one of `trial`, `front`, `candidates` and `max_drop`"),
        ({"max_drop": -0.1}, "`max_drop` must be from 0"),
        ({"trial": 99}, "no finished trial 99"),
        ({"trial": 0, "unlabelled": __file__}, "learns from labels, which `unlabelled` texts do"),
        ({"trial": 0, "unlabelled": "none.txt"}, "`unlabelled=none.txt` is not a file"),
        ({"front": True, "epochs": 0}, "`epochs`"),
        ({"front": True, "learning_rate": 3}, "`learning_rate`"),
        ({"front": True, "seed": -1}, "`seed`"),
        ({"front": True, "soup": 0}, "`soup`"),
        ({"front": True, "adapters": 0}, "`adapters` must be at least 1"),
        ({"front": True, "label_weight": -1}, "`label_weight` must be a number from 0 up"),
        ({"front": True, "label_weight": float("nan")}, "`label_weight` must be a number"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    study: Study, given: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "load_task", None)  # before anything is loaded
    with pytest.raises(UsageError, match=sentence):
        recover(study, **given)


def test_adapters_need_peft(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "load_task", None)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"`adapters` needs peft.*'axsearch\[adapters\]'"):
        recover(study, front=True, adapters=4)


def test_a_model_recovered_by_adapters_is_the_one_that_was_trained(study: Study) -> None:
    number = smallest(study)
    (whole,) = recover(study, trial=number, **QUICK)
    (found,) = recover(study, trial=number, adapters=4, **QUICK)
    assert found.trial != whole.trial
    store = weights_store(study.database.engine)
    facts = [store.made(one.after.recipe["recovery"]) for one in (whole, found)]
    assert facts[0] is not None
    assert facts[1] is not None
    assert "adapters" not in facts[0]  # whose key is that of earlier versions
    assert facts[1]["adapters"] == 4
    assert facts[1]["loss"] < facts[1]["loss_before"]
    # Whatever the study shows as its weights: what adapters leave is that of the model as cut.
    recipe = Recipe.from_dict(found.before.recipe)
    task = load_task(study.spec)
    cut = shown_evaluators(study, task, [recipe], "cpu")[recipe.hash].weights.state(recipe)
    own = Evaluator(task, study.database.engine, None).weights.state(
        Recipe.from_dict(found.after.recipe)
    )
    norms = [name for name in cut if "LayerNorm" in name and "embeddings" not in name]
    biases = [name for name in cut if ".layer." in name and name.endswith("dense.bias")]
    assert norms
    assert biases
    assert all((own[name] == cut[name]).all() for name in [*norms, *biases])


def test_a_training_that_brings_nothing_is_not_on_the_front(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_model = recovering.train_model

    def worse(*given: Any) -> Any:
        """Trained weights with the signs of the head turned."""
        found = train_model(*given)
        state = {n: -t if n.startswith("classifier") else t for n, t in found.state.items()}
        return replace(found, state=state)

    monkeypatch.setattr(recovering, "train_model", worse)
    (found,) = recover(study, trial=smallest(study), **QUICK)
    assert found.after.accuracy < 0.5 < found.before.accuracy
    assert found.trial not in {m.trial for m in study.front()}


def test_numbers_that_overflow_on_the_search_split_alone(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(*_: object) -> None:
        raise NonFiniteError("overflow")

    monkeypatch.setattr(recovering, "add_recovered", overflow)
    with pytest.raises(NotFiniteError, match="smaller `learning_rate`"):
        recover(study, trial=smallest(study), **QUICK)
    assert recover(study, front=True, epochs=1, learning_rate=2e-3) == []  # all are left out


def test_a_stop_before_the_first_look_adds_no_model(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, train_model = study.count, recovering.train_model

    def stopped(make: Any, lesson: Any, pupil: Any, run: Any, device: str) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        assert run.stopped()
        return train_model(make, lesson, pupil, replace(run, rate=0.3), device)

    monkeypatch.setattr(recovering, "train_model", stopped)
    with pytest.raises(KeyboardInterrupt):
        recover(study, trial=smallest(study), epochs=9, learning_rate=0.3)
    study.refresh()
    assert study.count == count


def test_numbers_are_the_same_however_they_are_written(study: Study) -> None:
    number = smallest(study)
    (first,) = recover(study, trial=number, label_weight=2, **QUICK)
    (again,) = recover(study, trial=number, label_weight=2.0, **QUICK)
    assert again.trial == first.trial


def test_printed_commands_quote_the_name_of_a_study(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    from axsearch.cli.front import print_front
    from axsearch.cli.recover import print_recovered

    one = study.trial(smallest(study))
    _ = study.baseline, study.expected  # read by its own name
    study.name = "a b; c"
    print_front(study)
    assert f"--study '{study.name}' --trial N" in capsys.readouterr().out
    print_recovered(study, [Recovered(smallest(study), one, one, 1.0)])
    assert f"--study '{study.name}' shows" in capsys.readouterr().out


def test_the_command_prints_both(
    study: Study, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from axsearch.cli.front import print_front, print_json
    from axsearch.cli.recover import print_recovered
    from axsearch.reporting.dashboard.annotating import study_note
    from axsearch.reporting.explanation import explain_trial

    number = smallest(study)
    found = recover(study, trial=number, **QUICK)
    print_recovered(study, found)
    said = capsys.readouterr().out
    assert f"{found[0].after.accuracy:.4f}" in said
    assert f"{found[0].before.accuracy:.4f}" in said
    sentences = explain_trial(study, found[0].trial).sentences
    assert any(f"trained further than those of trial {number}" in one for one in sentences)
    print_front(study)
    front = capsys.readouterr().out
    assert (f"{found[0].trial} (from {number})" in front) == (found[0].after in study.front())
    words = "models of trials N that were trained further"
    assert (words in front) == (found[0].after in study.front())
    assert (words in study_note(study, study.front(), None)) == (words in front)
    report = write_report(study, str(tmp_path / "report.html")).read_text()
    assert (words in report) == (words in front)
    print_json(study)
    members = json.loads(capsys.readouterr().out)["front"]
    origins = {m["trial"]: m["recovered_from"] for m in members}
    assert origins == {m.trial: m.recovered_from for m in study.front()}
