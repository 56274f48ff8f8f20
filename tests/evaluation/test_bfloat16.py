"""bfloat16: which features are run again, and that answers are those of float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from axsearch import Task
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.evaluation import accuracy
from axsearch.evaluation.accuracy import Predictor
from axsearch.evaluation.bfloat16 import AGAIN, FEWEST, is_fast, lowered, settle
from axsearch.evaluation.evaluator import Evaluator
from axsearch.models.architectures import architectures
from axsearch.models.weights import shrink
from axsearch.space.recipe import EXACT, Recipe
from axsearch.store.database import open_database
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.split import IGNORED, Split
from axsearch.testing.models import PICTURES, random_model, random_recipe
from axsearch.testing.samples import with_head, write_data
from axsearch.testing.text import tiny_bert, tiny_tokenizer

BINARY = task_kinds()["text-classification"]


class TestSettle:
    def settled(self, exact: Tensor, half: Tensor) -> list[int]:
        """Which features are run again."""
        asked: list[int] = []

        def again(rows: NDArray[np.int64]) -> list[Tensor]:
            asked.extend(rows.tolist())
            return [exact[row] for row in rows]

        targets = torch.zeros(len(half), dtype=torch.long)
        settle(list(half), BINARY.margins(half, targets).numpy(), again)
        assert len(set(asked)) == len(asked)  # each once
        return asked

    @pytest.mark.parametrize("classes", [2, 5])
    @pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
    def test_every_answer_that_changed_is_found(self, classes: int, noise: float) -> None:
        draw = torch.Generator().manual_seed(0)
        exact = torch.randn(4000, classes, generator=draw) * 3
        half = exact + noise * torch.randn(4000, classes, generator=draw)
        found = self.settled(exact, half)
        changed = (exact.argmax(1) != half.argmax(1)).nonzero()[:, 0].tolist()
        assert len(changed) > 3
        assert set(changed) <= set(found)
        if noise < 0.1:
            assert len(found) < 400

    def test_those_with_the_least_margin_are_run_again(self) -> None:
        half = torch.stack((torch.zeros(6400), torch.arange(6400) / 10), 1)
        found = self.settled(half, half)
        assert sorted(found) == list(range(round(AGAIN * 6400)))

    def test_a_large_deviation_lets_more_be_run_again(self) -> None:
        half = torch.stack((torch.zeros(640), torch.arange(640) / 10), 1)
        exact = half.clone()
        exact[3, 1] += 5.0
        found = self.settled(exact, half)
        assert sorted(found) == list(range(101))  # margins to 10.0: twice the deviation

    @pytest.mark.parametrize("count", [1, FEWEST, FEWEST + 1])
    def test_few_features(self, count: int) -> None:
        found = self.settled(torch.ones(count, 2), torch.ones(count, 2))
        assert len(found) == count  # all are ties


@pytest.fixture(scope="module")
def split() -> Split:
    draw = np.random.default_rng(0)
    ids = [draw.integers(2, 60, draw.integers(3, 25)).tolist() for _ in range(200)]
    inputs = [{"input_ids": own, "attention_mask": [1] * len(own)} for own in ids]
    return Split("search", inputs, draw.integers(0, 2, 200), pad_id=0, names=("a", "b"))


@pytest.mark.parametrize("model_type", [name for name in architectures() if name not in PICTURES])
def test_answers_are_those_of_float32(model_type: str, split: Split) -> None:
    base = random_model(model_type)
    for seed in range(3):
        model = shrink(base, random_recipe(model_type, seed))
        before = {name: (p.dtype, p.clone()) for name, p in model.named_parameters()}
        predictor = Predictor(BINARY, memory=0)
        exact = predictor.predict(model, split)
        half = predictor.predict(model, split, dtype="bfloat16")
        assert list(half.answers) == list(exact.answers)
        np.testing.assert_allclose(half.losses, exact.losses, atol=0.3)
        assert np.abs(half.losses - exact.losses).mean() < 0.02
        assert len(half.losses) > 2 * (half.losses == exact.losses).sum() > 0
        for name, parameter in model.named_parameters():  # nor is the model another one
            assert parameter.dtype == before[name][0]
            assert torch.equal(parameter, before[name][1])


def test_tags_are_those_of_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    with_head("token-classification", tiny_bert()).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    (tmp_path / "data").mkdir()
    task = Task.load(str(model), str(write_data("token-classification", tmp_path / "data")))
    weight, bias = (task.model.get_parameter(f"classifier.{n}") for n in ("weight", "bias"))
    with torch.no_grad():  # two tags that are nearly the same
        weight[1] = weight[0] + 0.002 * torch.randn(len(weight[0]))
        bias[1] = bias[0]
    predictor = Predictor(task.kind, memory=0)
    exact = predictor.predict(task.model, task.search)
    half = predictor.predict(task.model, task.search, dtype="bfloat16")
    assert list(half.answers) == list(exact.answers)
    with monkeypatch.context() as patched:
        patched.setattr(accuracy, "settle", lambda *_: None)
        raw = predictor.predict(task.model, task.search, dtype="bfloat16")
    assert list(raw.answers) != list(exact.answers)
    np.testing.assert_allclose(half.losses, exact.losses, atol=0.05)
    assert (half.losses != exact.losses).any()


def test_parameters_alone_are_lowered() -> None:
    model = random_model("modernbert")
    names = dict(model.named_parameters())
    found = lowered(model)
    assert found.keys() == names.keys()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_a_margin_is_that_of_the_closest_word() -> None:
    logits = torch.tensor([[[1.0, 3.0, 2.5], [9.0, 8.9, 0.0], [0.0, 4.0, 1.0]]])
    kind = task_kinds()["token-classification"]
    found = kind.margins(logits, torch.tensor([[1, IGNORED, 2]]))
    torch.testing.assert_close(found, torch.tensor([0.5]))


@pytest.mark.parametrize("kind", [k for k in task_kinds().values() if k.largest_logit])
def test_a_head_of_one_class_has_no_other_answer(kind: Any) -> None:
    targets = torch.zeros(3, 2, dtype=torch.long)
    logits = torch.zeros(3, 2, 1) if kind.name == "token-classification" else torch.zeros(3, 1)
    assert torch.isinf(kind.margins(logits, targets)).all()


def test_what_is_not_finite_in_bfloat16_alone_is_run_in_float32(split: Split) -> None:
    model, predictor = random_model("bert"), Predictor(BINARY, memory=0)
    wanted = predictor.predict(model, split)
    run = predictor._logits

    def overflows(model: Any, batch: Any, half: Any = None) -> Tensor:
        if half is not None:
            raise accuracy.NonFiniteError("The model's logits are not finite.")
        return run(model, batch)

    predictor._logits = overflows  # type: ignore[method-assign]
    found = predictor.predict(model, split, dtype="bfloat16")
    assert list(found.answers) == list(wanted.answers)
    np.testing.assert_array_equal(found.losses, wanted.losses)


def test_a_device_is_fast_where_its_processor_has_the_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    assert not is_fast("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert is_fast("cpu")
    assert not is_fast("mps")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert is_fast("cpu")
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, t=there: t)
        assert is_fast("cuda:1") is there


def test_float32_serves_for_bfloat16_and_not_the_other_way_round(
    base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    task = Task.load(str(base_dir), str(data_dir))
    database = open_database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    recipe = Recipe.of({SiteId(2, "ffn"): {"ffn": Kept(of=64, kept=tuple(range(40)))}})

    def evaluator(dtype: str) -> Evaluator:
        return Evaluator(task, database.engine, None, dtype=dtype)

    exact, half = evaluator("float32").losses(EXACT), evaluator("bfloat16").losses(EXACT)
    np.testing.assert_array_equal(exact, half)
    half = evaluator("bfloat16").losses(recipe)
    exact = evaluator("float32").losses(recipe)
    assert (exact != half).any()
    np.testing.assert_allclose(exact, half, atol=0.05)
    np.testing.assert_array_equal(half, evaluator("bfloat16").losses(recipe))
    # What is not searched on is always run in float32.
    holdout = evaluator("bfloat16").accuracy(recipe, task.holdout)
    wanted = Predictor(task.kind, memory=0).predict(shrink(task.model, recipe), task.holdout)
    np.testing.assert_array_equal(holdout.losses, wanted.losses)
    database.close()
