"""The examples that smaller models are refitted on, and what their tokens weigh."""

from __future__ import annotations

import pytest
import torch

from axsearch.models.base_model import Base
from axsearch.models.refit import sample
from axsearch.models.refit.sample import SENSITIVE, SampleSize, measure_sample
from axsearch.testing.models import tiny_model
from tests.models.refit.test_moments import COUNT, KIND, SPLIT


def test_every_example_weighs_the_same() -> None:
    base = Base(tiny_model("bert"))
    found = measure_sample(base, SPLIT, KIND, SampleSize(examples=COUNT, tokens=10**6))
    assert set(found.weights) == set(base.gates(base.model))
    assert sum(len(mask) for mask in found.masks) == COUNT
    for parts in found.weights.values():
        for mask, own in zip(found.masks, parts, strict=True):
            lengths = mask.sum(1)
            assert len(own) == lengths.sum()
            for part, length in zip(own.split(lengths.tolist()), lengths, strict=True):
                assert float(part.sum()) == pytest.approx(1.0, abs=1e-5)
                assert float(part.min()) >= (1 - SENSITIVE) / length - 1e-6
                assert float(part.max()) > 1 / length
    for batch, mask in zip(found.batches, found.masks, strict=True):
        assert torch.equal(batch["attention_mask"].bool(), mask)


@pytest.mark.parametrize(
    ("size", "most"), [(SampleSize(5, 10**6), 5), (SampleSize(10**6, 40), None)]
)
def test_not_more_than_asked_for(
    size: SampleSize, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "FEWEST", 1)
    found = measure_sample(Base(tiny_model("bert")), SPLIT, KIND, size)
    again = measure_sample(Base(tiny_model("bert")), SPLIT, KIND, size)
    count = sum(len(mask) for mask in found.masks)
    assert 0 < count < COUNT
    assert most is None or count == most
    assert sum(int(mask.sum()) for mask in found.masks) <= size.tokens
    for first, second in zip(found.batches, again.batches, strict=True):
        assert torch.equal(first["input_ids"], second["input_ids"])


def test_long_examples_are_no_reason_for_too_few() -> None:
    found = measure_sample(Base(tiny_model("bert")), SPLIT, KIND, SampleSize(10**6, 1))
    assert sum(len(mask) for mask in found.masks) == sample.FEWEST
