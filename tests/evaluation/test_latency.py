"""Latency: what is timed, in which order, and what comes out of the times."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.site import SiteId
from axsearch.evaluation import latency
from axsearch.evaluation.latency import measure_latency, workload, workload_fingerprint
from axsearch.models.weights import shrink
from axsearch.runtimes import Session, open_session
from axsearch.runtimes.torch import TorchSession
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.tasks.split import Split
from axsearch.testing.text import tiny_bert

VOCABULARY = 50


def split_of(*lengths: int) -> Split:
    inputs = [
        {"input_ids": [5] * length, "attention_mask": [1] * length, "token_type_ids": [0] * length}
        for length in lengths
    ]
    return Split("search", inputs, np.zeros(len(lengths), int), pad_id=0)


class TestWorkload:
    def test_given_length(self) -> None:
        (batch,) = workload(split_of(3, 4), Scenario(batch_size=5, sequence_length=24), VOCABULARY)
        assert batch["input_ids"].shape == (5, 24)
        assert batch["attention_mask"].equal(torch.ones(5, 24, dtype=torch.int64))
        assert batch["input_ids"].min() >= 0
        assert batch["input_ids"].max() < VOCABULARY
        assert len(batch["input_ids"].unique()) > 20

    def test_given_length_is_seeded(self) -> None:
        scenario = Scenario(batch_size=5, sequence_length=24)
        first, again, other = (
            workload(split_of(3), scenario, VOCABULARY, seed=seed)[0]["input_ids"]
            for seed in (0, 0, 1)
        )
        assert first.equal(again)
        assert not first.equal(other)

    def test_own_lengths_are_those_of_the_split(self) -> None:
        lengths = [*range(1, 41)]
        np.random.default_rng(0).shuffle(lengths)
        batches = workload(split_of(*lengths), Scenario(batch_size=4), VOCABULARY, batches=3)
        # Sorted, the batches begin at a sixth, a half and five sixths of the way.
        assert [batch["input_ids"].shape for batch in batches] == [(4, 10), (4, 22), (4, 34)]
        assert [batch["attention_mask"].sum(1).tolist() for batch in batches] == [
            [7, 8, 9, 10], [19, 20, 21, 22], [31, 32, 33, 34]
        ]  # fmt: skip
        assert set(batches[0]) == {"input_ids", "attention_mask", "token_type_ids"}

    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_small_split_is_one_batch(self, count: int) -> None:
        batches = workload(split_of(*range(1, count + 1)), Scenario(batch_size=8), VOCABULARY)
        assert [batch["input_ids"].shape for batch in batches] == [(count, count)]


class TestFingerprint:
    """Latencies of earlier versions are kept under these: they must be found again."""

    @pytest.mark.parametrize(
        ("scenario", "before"),
        [
            (
                Scenario(batch_size=5, sequence_length=24, threads=2),
                "29c34833bcf8693cc6152fbe279e989594ae2ed43cfa8f6fdeba6d9ccf81765a",
            ),
            (
                Scenario(batch_size=4, threads=1),
                "f3ae92f865e92a400cba8fc8898f6cf418aaf3fad68973584c2cbf70d751a257",
            ),
            (
                Scenario(batch_size=4, device="cuda"),
                "a45da049c0efbe7dfa2639db1ca47d1329608e8b5bb8a7c9c7e62d0e619b52f8",
            ),
        ],
    )
    def test_is_what_it_was_before_there_were_runtimes(
        self, scenario: Scenario, before: str
    ) -> None:
        batches = workload(split_of(*range(1, 41)), scenario, VOCABULARY)
        assert workload_fingerprint(scenario, batches) == before

    def test_differs_by_runtime_precision_and_tokens(self) -> None:
        scenario = Scenario(batch_size=5, sequence_length=24)
        batches = workload(split_of(3), scenario, VOCABULARY)
        changes: list[dict[str, Any]] = [
            {}, {"runtime": "other"}, {"precision": "int8"}, {"batch_size": 6},
            {"runtime": "other", "precision": "int8"},
        ]  # fmt: skip
        found = {workload_fingerprint(replace(scenario, **c), batches) for c in changes}
        found.add(workload_fingerprint(scenario, [{"input_ids": batches[0]["input_ids"] + 1}]))
        assert len(found) == len(changes) + 1


class Clock:
    """Time that passes only while a stand-in for a model runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self.surroundings: set[tuple[int, bool, bool]] = set()

    def model(self, name: str, seconds: Iterator[float], threads: int | None = None) -> Session:
        clock = self

        class StandIn:
            device = torch.device("cpu")

            def __call__(self, **batch: torch.Tensor) -> None:
                clock.calls.append(name)
                clock.now += next(seconds)
                clock.surroundings.add(
                    (torch.get_num_threads(), gc.isenabled(), torch.is_inference_mode_enabled())
                )

        model: Any = StandIn()
        return TorchSession(model, threads, "cpu")


PAIRS, MOST = latency.PAIRS, latency.MOST  # before the session's fixtures


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(latency, "MOST", MOST)
    made = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: made.now)
    return made


BATCHES = workload(split_of(*range(1, 25)), Scenario(batch_size=8), VOCABULARY)


class TestMeasuring:
    def test_how_many_pairs_there_are(self) -> None:
        assert (PAIRS, MOST) == (5, 3)

    def test_median_of_paired_ratios(self, clock: Clock) -> None:
        # The machine slows down threefold half-way, and one pass of the model is disturbed.
        drift = [1, 1, 1, 3, 3, 3]
        base = clock.model("base", iter([0.2 * d for d in drift]))
        model = clock.model(
            "model", iter([0.1 * d * (9 if i == 4 else 1) for i, d in enumerate(drift)])
        )
        found = measure_latency(base, model, BATCHES[:1], pairs=5)
        assert found.pairs == 5
        assert (found.low, found.ratio, found.high) == pytest.approx((0.5, 0.5, 0.5))
        assert (found.base_ms, found.model_ms) == pytest.approx((600, 300))

    def test_quartiles(self, clock: Clock) -> None:
        base = clock.model("base", iter([1.0] * 6))
        model = clock.model("model", iter([9, 0.52, 0.4, 0.5, 0.49, 0.51]))
        found = measure_latency(base, model, BATCHES[:1], pairs=5)
        assert (found.low, found.ratio, found.high) == pytest.approx((0.49, 0.5, 0.51))

    def test_more_pairs_while_ratios_are_far_apart(self, clock: Clock) -> None:
        base = clock.model("base", iter([1.0] * 99))
        calm = clock.model("calm", iter([9, 0.1, 0.5, 0.9, *[0.5] * 99]))
        found = measure_latency(base, calm, BATCHES[:1], pairs=3)
        assert (found.ratio, found.pairs) == (0.5, 6)
        wild = clock.model("wild", iter([0.1, 0.9] * 99))
        found = measure_latency(base, wild, BATCHES[:1], pairs=3)
        assert found.pairs == latency.MOST * 3

    def test_passes_alternate_over_all_batches_after_a_warm_up(self, clock: Clock) -> None:
        base, model = (clock.model(name, iter([1.0] * 99)) for name in ("base", "model"))
        found = measure_latency(base, model, BATCHES, pairs=3)
        count = len(BATCHES)
        assert clock.calls == (["base"] * count + ["model"] * count) * (latency.WARM_UP + 3)
        assert found.base_ms == pytest.approx(1000 * count)

    def test_threads_are_set_and_restored(self, clock: Clock) -> None:
        before = torch.get_num_threads()
        models = [clock.model(name, iter([1.0] * 99), before + 1) for name in ("base", "model")]
        measure_latency(*models, BATCHES, pairs=1)
        # No garbage is collected and no graph is kept meanwhile.
        assert clock.surroundings == {(before + 1, False, True)}
        assert torch.get_num_threads() == before
        assert gc.isenabled()

    def test_threads_are_left_alone_where_none_are_asked_for(self, clock: Clock) -> None:
        before = torch.get_num_threads()
        models = [clock.model(name, iter([1.0] * 99)) for name in ("base", "model")]
        measure_latency(*models, BATCHES, pairs=1)
        assert {threads for threads, _, _ in clock.surroundings} == {before}

    def test_everything_is_restored_after_a_failure(self, clock: Clock) -> None:
        before = torch.get_num_threads()
        base = clock.model("base", iter([1.0] * 99), before + 1)
        broken = clock.model("model", iter([]), before + 1)
        with pytest.raises(StopIteration):
            measure_latency(base, broken, BATCHES)
        assert torch.get_num_threads() == before
        assert gc.isenabled()
        assert not torch.is_inference_mode_enabled()


class TestRealModels:
    SCENARIO = Scenario(batch_size=8, sequence_length=32, threads=1)

    def test_base_against_itself(self) -> None:
        base = tiny_bert(layers=6)
        batches = workload(split_of(1), self.SCENARIO, VOCABULARY)
        with open_session(base, self.SCENARIO) as ours, open_session(base, self.SCENARIO) as same:
            # More pairs than elsewhere: other tests run beside these passes of 2 ms.
            found = measure_latency(ours, same, batches, pairs=101)
        assert 0.6 < found.ratio < 1.6
        assert found.low <= found.ratio <= found.high

    def test_much_smaller_model_is_faster(self) -> None:
        base = tiny_bert(layers=6)
        sites: dict[SiteId, dict[str, Choice]] = {}
        for layer in range(6):
            sites[SiteId(layer, "attention")] = {"heads": Kept(of=4, kept=())}
            sites[SiteId(layer, "ffn")] = {"ffn": Kept(of=64, kept=())}
        batches = workload(split_of(1), self.SCENARIO, VOCABULARY)
        small = shrink(base, Recipe.of(sites))
        with open_session(base, self.SCENARIO) as ours, open_session(small, self.SCENARIO) as less:
            found = measure_latency(ours, less, batches, pairs=9)
        assert found.ratio < 0.6
        assert found.model_ms < found.base_ms
