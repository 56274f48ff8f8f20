"""Predictions of a model over a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_bert, tiny_tokenizer

from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation import accuracy
from axsearch.evaluation.accuracy import NonFiniteError, predict
from axsearch.split import Split
from axsearch.tasks import task_kinds
from axsearch.tasks.sequences import encode

COUNT = 150


def split() -> Split:
    """Random texts of different lengths, in no order of length."""
    draw = np.random.default_rng(0)
    texts = [
        (" ".join(f"word{i}" for i in draw.integers(0, 40, draw.integers(1, 30))),)
        for _ in range(COUNT)
    ]
    return Split("search", encode(tiny_tokenizer(), texts, 48), np.zeros(COUNT, int), pad_id=0)


SPLIT, KIND = split(), task_kinds()["text-classification"]


def test_predictions_are_in_the_order_of_the_split() -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.weight *= 20  # or one class would win everywhere
        logits = torch.cat(
            [
                model(**{key: torch.tensor([values]) for key, values in example.items()}).logits
                for example in SPLIT.inputs
            ]
        )
        # Each class wins about half of the time.
        middle = logits.mean(0)
        model.classifier.bias -= middle
    alone = (logits - middle).argmax(-1).numpy()
    assert 0.2 < alone.mean() < 0.8
    np.testing.assert_array_equal(predict(model, SPLIT, KIND), alone)


def test_each_example_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 32)
    model, done = tiny_bert(), []
    model.register_forward_pre_hook(
        lambda _, __, given: done.append(len(given["input_ids"])), with_kwargs=True
    )
    predict(model, SPLIT, KIND)
    assert done == [32, 32, 32, 32, 22]


def test_batch_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    found = predict(model, SPLIT, KIND)
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 7)
    np.testing.assert_array_equal(predict(model, SPLIT, KIND), found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["classifier.bias", "bert.encoder.layer.1.output.dense.weight"])
def test_weights_that_are_not_finite(name: str, value: float) -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.get_parameter(name).flatten()[0] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        predict(model, SPLIT, KIND)


def test_a_failed_trial_is_no_wrong_use() -> None:
    assert issubclass(NonFiniteError, AxsearchError)
    assert not issubclass(NonFiniteError, UsageError)
