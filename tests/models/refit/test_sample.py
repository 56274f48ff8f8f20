"""The examples that smaller models are refitted on, and what their tokens weigh."""

from __future__ import annotations

import pytest
import torch

from axsearch.models.base_model import Base
from axsearch.models.refit import sample
from axsearch.models.refit.sample import (
    POLISHING,
    SENSITIVE,
    SampleSize,
    measure_sample,
    polishing_size,
)
from axsearch.testing.models import random_model, tiny_model
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


def test_in_bfloat16_tokens_weigh_nearly_the_same() -> None:
    base, size = Base(tiny_model("bert")), SampleSize(COUNT, 10**6)
    exact = measure_sample(base, SPLIT, KIND, size)
    found = measure_sample(base, SPLIT, KIND, size, bfloat16=True)
    changed = 0
    for site, parts in exact.weights.items():
        for own, lower in zip(parts, found.weights[site], strict=True):
            assert lower.dtype == torch.float32
            assert float((own - lower).abs().sum()) < 0.02 * float(own.sum())
            changed += not torch.equal(own, lower)
    assert changed


def test_large_models_are_polished_on_fewer_tokens() -> None:
    def of(size: int) -> SampleSize:
        shape = {"num_hidden_layers": size // 256, "hidden_size": 256, "num_attention_heads": 2}
        return polishing_size(Base(random_model("bert", **shape, intermediate_size=8)))

    assert of(6 * 384) == of(512) == POLISHING
    assert of(12 * 768) == SampleSize(POLISHING.examples, 16_384)
    assert of(24 * 1024) == SampleSize(POLISHING.examples, 6_144)
