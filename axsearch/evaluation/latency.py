"""Latency of a model relative to the base, timed so that it holds on a shared machine too."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from axsearch.runtimes.base import Inputs, Session
from axsearch.space.scenario import Scenario
from axsearch.tasks.split import Batch, Split

PAIRS = 5
WARM_UP = 1
SPREAD = 0.1
MOST = 3
OWN_LENGTH_BATCHES = 3


@dataclass(frozen=True)
class Latency:
    """Times of one pass over the scenario's batches.

    ``ratio`` is the median over ``pairs`` of the model's time over that of the base's pass just
    before it; ``low`` and ``high`` are the quartiles of those ratios; times are medians in ms.
    """

    model_ms: float
    base_ms: float
    ratio: float
    low: float
    high: float
    pairs: int


def workload(
    split: Split,
    scenario: Scenario,
    vocabulary: int,
    batches: int = OWN_LENGTH_BATCHES,
    seed: int = 0,
    chosen_by: Split | None = None,
) -> list[Batch]:
    """The batches that a scenario times; random tokens where it has a length.

    Their examples are chosen by their lengths in ``chosen_by``, where the split is that one as
    another tokenizer reads it.
    """
    if scenario.sequence_length is not None:
        generator = torch.Generator().manual_seed(seed)
        shape = (scenario.batch_size, scenario.sequence_length)
        ids = torch.randint(vocabulary, shape, generator=generator)
        return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    order = np.argsort((chosen_by or split).lengths, kind="stable")
    size = min(scenario.batch_size, len(order))
    starts = [int((i + 0.5) / batches * (len(order) - size)) for i in range(batches)]
    return [split.collate(order[start : start + size]) for start in sorted(set(starts))]


def tokens_in(batches: Sequence[Batch]) -> int:
    """How many tokens batches have, padding among them."""
    return sum(batch["input_ids"].numel() for batch in batches)


def workload_fingerprint(scenario: Scenario, batches: Sequence[Batch]) -> str:
    """SHA-256 of a scenario and the tokens that it times, under which latencies are stored."""
    digest = hashlib.sha256(scenario.key.encode())
    for batch in batches:
        digest.update(batch["input_ids"].numpy().data)
    return digest.hexdigest()


def measure_latency(
    base: Session,
    model: Session,
    batches: Sequence[Batch],
    own: Sequence[Batch] | None = None,
    *,
    pairs: int = PAIRS,
) -> Latency:
    """Time model and base in turn (A B A B …) after a warm-up of each.

    Absolute times drift on a shared machine; the ratio of two passes made one after the other
    does not, and the median over pairs ignores those that something else disturbed. While the
    quartiles of the ratios lie more than 10 % apart, up to three times ``pairs`` are measured.
    ``own`` are the model's batches, where another tokenizer makes them of the same texts.
    """
    ours = [base.prepare(batch) for batch in batches]
    theirs = [model.prepare(batch) for batch in own or batches]
    with base.quiet(), model.quiet():
        for _ in range(WARM_UP):
            _pass(base, ours)
            _pass(model, theirs)
        measured: list[tuple[float, float]] = []
        spread = np.inf
        while spread > SPREAD and len(measured) < MOST * pairs:
            measured += [(_pass(base, ours), _pass(model, theirs)) for _ in range(pairs)]
            times = np.array(measured)
            low, ratio, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
            spread = (high - low) / ratio
    base_ms, model_ms = (float(ms) for ms in np.median(times, axis=0) * 1e3)
    return Latency(model_ms, base_ms, float(ratio), float(low), float(high), len(measured))


def _pass(session: Session, batches: Sequence[Inputs]) -> float:
    start = time.perf_counter()
    for batch in batches:
        session.run(batch)
    session.settle()
    return time.perf_counter() - start
