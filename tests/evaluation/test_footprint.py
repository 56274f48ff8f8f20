"""The least memory that a model takes, against what it does take."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import profile

from axsearch.errors import UsageError
from axsearch.evaluation import footprint
from axsearch.evaluation.footprint import GIB, Need, Shapes, check_memory, sizes
from axsearch.models.architectures import architecture_of
from axsearch.testing.models import LENGTH, random_model
from tests.tasks.test_split import split_of

FAMILIES = ("albert", "bert", "deberta-v2", "distilbert", "gpt2", "modernbert", "mpnet")


def peak(profiled: profile) -> int:
    """The most bytes that were allocated at once."""
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_estimate_is_above_what_a_model_takes(model_type: str) -> None:
    """Or a search that could run would be refused; and it is not far below."""
    model = random_model(model_type, hidden_dropout_prob=0.0)
    batch = architecture_of(model_type).example(model.config, 6, LENGTH)
    shapes = Shapes.of(model)
    with torch.inference_mode(), profile(profile_memory=True) as forward:
        model(**batch)
    taken = peak(forward)
    assert taken / 3 < shapes.forward(6, LENGTH) <= taken
    with profile(profile_memory=True) as backward:
        model(**batch).logits.sum().backward()
    taken = peak(backward)
    assert taken / 5 < shapes.backward(6, LENGTH) <= taken


def test_the_batches_are_those_of_a_split() -> None:
    split = split_of(3, 700, 5, 1030, 600)
    found = [(len(rows), batch["input_ids"].shape[1]) for rows, batch in split.batches(2)]
    assert list(sizes(split, 2)) == found == [(2, 5), (1, 600), (1, 700), (1, 1030)]


def test_what_does_not_fit_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "obtainable", lambda: 2 * GIB)
    check_memory([Need("Evaluating", 2 * GIB, "")], "cpu")
    with pytest.raises(UsageError) as refused:
        check_memory([Need("Evaluating", GIB, ""), Need("Timing", 3 * GIB, "wait")], "cpu")
    assert str(refused.value) == (
        "Timing takes at least 3.0 GiB of memory, and 2.0 GiB are free: wait."
    )
    check_memory([Need("Evaluating", 3 * GIB, "")], "mps")
