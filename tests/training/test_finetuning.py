from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, BertModel

import axsearch.training.finetuning
from axsearch import Task, finetune
from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import predict
from axsearch.tasks.spec import AS_BEFORE, LEFT_OUT, UNKNOWN
from axsearch.testing.text import reviews, tiny_bert, tiny_tokenizer, write_csv
from axsearch.training.finetuning import FineTuned


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without a head; its tokenizer has padding and truncation built in."""
    folder = tmp_path_factory.mktemp("headless")
    BertModel(tiny_bert().config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=40)
    tokenizer.backend_tokenizer.enable_truncation(10)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def named_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews labelled with words, without a validation split."""
    folder = tmp_path_factory.mktemp("named")
    names = {0: "negative", 1: "positive"}
    for split, count in (("train", 600), ("test", 60)):
        rows = [(text, names[label]) for text, label in reviews(count, len(split))]
        write_csv(folder / f"{split}.csv", rows, ("sentence", "label"))
    return folder


@pytest.fixture(scope="module")
def tuned(
    headless: Path, named_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FineTuned, Path]:
    out = tmp_path_factory.mktemp("tuned") / "base"
    return finetune(str(headless), str(named_data), str(out), epochs=2, max_length=32), out


def test_the_result_is_a_base_that_a_search_can_start_from(
    tuned: tuple[FineTuned, Path], named_data: Path
) -> None:
    done, out = tuned
    task = Task.load(str(out), str(named_data))
    assert task.model.config.id2label == {0: "negative", 1: "positive"}
    assert int(task.search.lengths.min()) < int(task.search.lengths.max()) <= 32
    accuracy = np.mean(predict(task.model, task.search, task.kind) == task.search.targets)
    assert accuracy == pytest.approx(done.validation.value, abs=1e-9)
    assert not done.cached
    assert not list(out.glob("checkpoints-*"))


def test_embeddings_stay_and_the_encoder_learns(
    tuned: tuple[FineTuned, Path], headless: Path
) -> None:
    before = BertModel.from_pretrained(headless).state_dict()
    trained = BertModel.from_pretrained(tuned[1]).state_dict()
    word, query = "embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"
    assert (before[word] == trained[word]).all()
    assert not (before[query] == trained[query]).all()


def test_a_finished_run_is_not_done_again(
    tuned: tuple[FineTuned, Path],
    headless: Path,
    named_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, out = tuned
    monkeypatch.delattr(axsearch.training.finetuning, "InParts")
    again = finetune(str(headless), str(named_data), str(out), epochs=2, max_length=32)
    assert again.cached
    assert again.validation == done.validation
    with pytest.raises(UsageError, match="fine-tuned with other arguments"):
        finetune(str(headless), str(named_data), str(out), epochs=3, max_length=32)


def test_an_interrupted_run_goes_on_from_its_last_epoch(
    headless: Path, named_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base"
    steps: list[int] = []
    on_step_end = axsearch.training.finetuning._Shown.on_step_end

    def interrupted(
        self: object, args: object, state: object, control: object, **_: object
    ) -> None:
        steps.append(state.global_step)  # type: ignore[attr-defined]
        if len(steps) == 25:
            raise KeyboardInterrupt
        on_step_end(self, args, state, control)  # type: ignore[arg-type]

    monkeypatch.setattr(axsearch.training.finetuning._Shown, "on_step_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(str(headless), str(named_data), str(out), epochs=2)
    finetune(str(headless), str(named_data), str(out), epochs=2)
    per_epoch = steps[-1] // 2
    assert per_epoch < 25
    assert steps[25] == per_epoch + 1  # the second run began with the second epoch
    assert json.loads((out / "finetune.json").read_text())["epochs"] == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 0}, "`epochs`"),
        ({"seed": 2**32}, "`seed`"),
        ({"max_length": 2}, "`max_length`"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"data": "/no/such/data"}, "/no/such/data"),
        ({"metric": "bleu"}, "bleu"),
        ({"task": "translation"}, "translation"),
        ({"label_column": "stars"}, "stars"),
    ],
)
def test_wrong_use_is_refused_before_training(
    headless: Path, named_data: Path, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    given = {"model": str(headless), "data": str(named_data), "out": str(tmp_path / "out")}
    with pytest.raises(UsageError, match=word):
        finetune(**{**given, **change})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(
    headless: Path, named_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        finetune(str(headless), str(named_data), str(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        finetune(str(headless), str(named_data), str(tmp_path / "thesis.txt"))


def test_a_label_that_train_does_not_have_is_said(
    headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "train.csv", list(reviews(40, 0)), ("text", "label"))
    write_csv(tmp_path / "test.csv", [("good", 1), ("fine", 7)], ("text", "label"))
    finetune(str(headless), str(tmp_path), str(tmp_path / "out"), epochs=1)
    assert "nothing can be learnt of it: '7'." in " ".join(capsys.readouterr().err.split())
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "0", 1: "1", 2: "7"}


def test_texts_of_which_most_words_are_unknown_are_refused(
    headless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"some other words {i}", i % 2) for i in range(40)]
    write_csv(tmp_path / "train.csv", list(rows), ("text", "label"))
    monkeypatch.setattr(axsearch.training.finetuning, "_trained", None)
    given = (str(headless), str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"100% of the tokens .* `tokenizer`, or `force=True`"):
        finetune(*given)
    with pytest.raises(TypeError):  # it would begin
        finetune(*given, force=True)


def test_a_model_that_learnt_nothing_is_said(
    headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(text, i % 2) for i, (text, _) in enumerate(reviews(60, 0))]  # labels at random
    write_csv(tmp_path / "train.csv", list(rows), ("text", "label"))
    finetune(str(headless), str(tmp_path), str(tmp_path / "out"), epochs=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "no better on validation than one class for all" in said


def test_splits_that_fine_tuning_cut_are_those_of_the_task(headless: Path, tmp_path: Path) -> None:
    """What was held out of training is what a search evaluates on; of another model it is not."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_csv(data / "train.csv", list(reviews(100, 0)), ("text", "label"))
    write_csv(data / "validation.csv", list(reviews(40, 1)), ("text", "label"))
    finetune(str(headless), str(data), str(out), epochs=1)
    task = Task.load(str(out), str(data))
    assert (task.reading, len(task.calibration), len(task.search)) == (LEFT_OUT, 90, 40)
    write_csv(data / "train.csv", list(reviews(120, 5)), ("text", "label"))  # other examples
    other = Task.load(str(out), str(data))
    assert (other.reading, len(other.calibration)) == (UNKNOWN, 120)
    assert (len(other.search), len(other.holdout)) == (20, 20)
    (out / "finetune.json").write_text('{"model": "by version 0.1"}')
    assert Task.load(str(out), str(data)).reading == AS_BEFORE
    (out / "finetune.json").unlink()
    assert Task.load(str(out), str(data)).reading == UNKNOWN


def test_a_run_stopped_after_training_goes_on(
    headless: Path, named_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base"
    given = (str(headless), str(named_data), str(out))
    with monkeypatch.context() as patched:

        def stopped(*args: object, **kwargs: object) -> None:
            raise KeyboardInterrupt

        patched.setattr("axsearch.training.finetuning.predict", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(*given, epochs=1)
    assert not finetune(*given, epochs=1).cached
    assert finetune(*given, epochs=1).cached
    (out / "finetune.json").write_text("{")
    with pytest.raises(UsageError, match=r"finetune\.json is damaged"):
        finetune(*given, epochs=1)


def test_other_weights_under_the_same_name_are_another_model(
    named_data: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "base"
    for seed in (0, 1):
        BertModel(tiny_bert(seed).config).save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
        if seed == 0:
            finetune(str(model), str(named_data), str(out), epochs=1)
        else:
            with pytest.raises(UsageError, match="fine-tuned with other arguments"):
                finetune(str(model), str(named_data), str(out), epochs=1)
