"""Studies of inputs that are cut to a length: which, that it is kept, and that it fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from transformers import BertForSequenceClassification

from axsearch import Study, Task, search
from axsearch.errors import UsageError
from axsearch.evaluation import footprint
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task
from axsearch.testing.models import random_model
from axsearch.testing.text import VOCABULARY, reviews, tiny_tokenizer, write_csv
from tests.common_fixtures import copied

Search = Callable[..., Study]


@pytest.fixture
def run(base_dir: Path, data_dir: Path, calibrated: str, tmp_path: Path) -> Search:
    """A search without latency, of one trial; keywords replace its arguments."""
    given = {
        "model": str(base_dir), "data": str(data_dir), "storage": copied(calibrated, tmp_path),
        "study": "long", "trials": 1, "objectives": ("accuracy", "size"), "sampler": "random",
        "compensation": "least_squares",
    }  # fmt: skip
    return lambda **changed: search(**{**given, **changed})  # type: ignore[arg-type]


def test_a_study_keeps_its_length(run: Search, capsys: pytest.CaptureFixture[str]) -> None:
    study = run(max_length=12)
    said = " ".join(capsys.readouterr().err.split())
    assert "400 texts are longer than 12 tokens and are cut, by" in said
    assert "--max-length 48 keeps them." in said
    assert study.spec.max_length == 12
    resumed = run(trials=2)
    assert resumed.spec.max_length == 12
    assert run(trials=2, max_length=12).spec == resumed.spec
    with pytest.raises(UsageError, match=r"exists with another max length \(12, not 16\)"):
        run(trials=2, max_length=16)
    capsys.readouterr()
    assert load_task(study.spec).search.lengths.max() == 12
    said = " ".join(capsys.readouterr().err.split())
    assert "texts are longer than 12 tokens and are cut, by" in said
    assert "--max-length" not in said  # which the commands that open a study do not take


def test_a_study_of_before_lengths_could_be_set_goes_on(run: Search) -> None:
    study = run()
    assert study.spec.max_length == 48
    with study.database.engine.begin() as connection:
        stored = json.loads(connection.scalar(text("SELECT spec FROM ax_studies")))
        del stored["max_length"]
        connection.execute(text("UPDATE ax_studies SET spec = :spec"), {"spec": json.dumps(stored)})
    older = Study.open(str(study.database.engine.url), "long")
    assert older.spec.max_length == 512
    assert load_task(older.spec).split_fingerprints == study.spec.splits
    resumed = run(trials=2)
    assert resumed.spec.max_length == 512
    assert len(resumed.measurements) == 2


def test_lengths_that_the_model_or_its_tokenizer_does_not_read_are_refused(
    run: Search, base_dir: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        run(max_length=65)
    assert str(refused.value) == (
        f"`max_length=65` is above the 64 positions of {base_dir}; fine-tune it with "
        "`max_length=65`, which gives it more, or give at most 64."
    )
    with pytest.raises(UsageError) as refused:
        run(max_length=49)
    assert str(refused.value) == (
        f"`max_length=49` is above the 48 tokens that the tokenizer of {base_dir} reads (its "
        "model_max_length); fine-tune the model with `max_length=49`, or give at most 48."
    )
    with pytest.raises(UsageError, match="`max_length` must be at least 8, not 7"):
        run(max_length=7)
    assert run(max_length=48).spec.max_length == 48


@pytest.mark.parametrize(
    ("given", "length", "cut"), [(None, 1024, 1), (512, 512, 39), (700, 700, 20)]
)
def test_a_model_that_reads_more_is_not_cut_at_512(
    given: int | None, length: int, cut: int, tmp_path: Path
) -> None:
    model = random_model("bert", vocab_size=len(VOCABULARY), max_position_embeddings=2000)
    assert isinstance(model, BertForSequenceClassification)
    model.save_pretrained(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for seed, split in enumerate(("train", "validation", "test")):
        rows = list(reviews(30, seed))
        filler = [900] * 7 + [600] * 6 + [0] * 17 if seed else [900] * 6 + [600] * 7 + [0] * 17
        filler[0] = 1500 if split == "test" else filler[0]
        long = [("word1 " * more + own, y) for more, (own, y) in zip(filler, rows, strict=True)]
        write_csv(tmp_path / "data" / f"{split}.csv", list(long), ("text", "label"))
    task = Task.load(str(tmp_path / "model"), str(tmp_path / "data"), max_length=given)
    assert task.max_length == length
    assert task.holdout.lengths.max() == length
    assert task.cut.startswith(f"{cut} of 90 texts are longer than {length:,} tokens")
    (advice,) = [one for one in task.said if one.startswith(task.cut[:-1])]
    assert advice.endswith("; --max-length 2000 keeps them.")
    assert any("inputs are read up to 1,024" in one for one in task.said) == (given is None)


def test_a_search_that_does_not_fit_is_refused_before_it_starts(
    run: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("expensive work was started")

    monkeypatch.setattr(Evaluator, "accuracy", never)
    monkeypatch.setattr("axsearch.running.session.prepare", never)
    monkeypatch.setattr(footprint, "obtainable", lambda: 2**19)
    calibrating = r"Calibrating with 32 inputs of \d+ tokens takes at least .*smaller `max_length`"
    with pytest.raises(UsageError, match=calibrating):
        run(study="large", sampler="auto")
    with pytest.raises(UsageError, match=r"Evaluating 64 inputs of \d+ tokens .* `max_length`"):
        run(study="large", dtype="float32", sampler="axformer")  # which needs no calibration
    monkeypatch.setattr(footprint, "obtainable", lambda: 2**23)
    with pytest.raises(
        UsageError, match=r"Timing 3,200 inputs of 64 tokens .* smaller `batch_size`"
    ):
        run(study="large", objectives=("accuracy", "latency"), sequence_length=64, batch_size=3200)
