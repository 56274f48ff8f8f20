"""Staged evaluation: what the stages are, who is stopped, and what the Evaluator makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_bert, tiny_tokenizer
from numpy.typing import NDArray
from tasks.samples import rows, with_head, write_rows

from axsearch import Task
from axsearch.evaluation import stages as staging
from axsearch.evaluation.accuracy import Predictor
from axsearch.evaluation.evaluator import EXACT, Evaluator
from axsearch.evaluation.stages import DominatedError, Rival, Stages, dominated, joined
from axsearch.metrics import estimate
from axsearch.outcome import Outcome
from axsearch.recipe import Kept, Recipe, SiteId
from axsearch.split import Split
from axsearch.store.database import Database, open_database
from axsearch.store.queries import EvaluationKey, load_evaluation


def split_of(count: int) -> Split:
    inputs = [{"input_ids": [5] * (3 + row % 7), "attention_mask": [1] * (3 + row % 7)}
              for row in range(count)]  # fmt: skip
    return Split("search", inputs, np.arange(count), pad_id=0)


class TestStages:
    @pytest.mark.parametrize(
        ("count", "sizes"),
        [
            (872, [109, 327, 436]),
            (256, [32, 96, 128]),
            (80, [32, 8, 40]),
            (64, [32, 32]),
            (40, [32, 8]),
            (32, [32]),
            (5, [5]),
            (1, [1]),
        ],
    )
    def test_they_part_the_split(self, count: int, sizes: list[int]) -> None:
        found = Stages(split_of(count))
        assert [len(part) for part in found.examples] == sizes
        assert sorted(np.concatenate(found.examples)) == list(range(count))
        for examples, own, part in zip(found.examples, found.rows, found.parts, strict=True):
            np.testing.assert_array_equal(own, examples)
            np.testing.assert_array_equal(part.targets, examples)
        for stage in range(len(sizes)):
            assert len(found.seen(stage)) == sum(sizes[: stage + 1])
            assert set(found.seen(stage)) == set(np.concatenate(found.examples[: stage + 1]))

    def test_they_are_always_the_same_and_in_no_order_of_the_data(self) -> None:
        first, again = Stages(split_of(300)), Stages(split_of(300))
        for ours, theirs in zip(first.examples, again.examples, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert 100 < first.examples[0].mean() < 200

    def test_windows_stay_with_their_question(self, long_contexts: Task) -> None:
        split = long_contexts.search
        assert len(split) > split.owners[-1] + 1 > 40  # some have several windows
        found = Stages(split)
        assert sorted(np.concatenate(found.rows)) == list(range(len(split)))
        for examples, own, part in zip(found.examples, found.rows, found.parts, strict=True):
            assert set(split.owners[own]) == set(examples)
            assert not set(split.owners[np.setdiff1d(np.arange(len(split)), own)]) & set(examples)
            assert [split.inputs[row] for row in own] == part.inputs

    @pytest.mark.parametrize("metric", ["f1", "exact_match"])
    def test_outcomes_of_the_parts_are_those_of_the_whole(
        self, long_contexts: Task, metric: str
    ) -> None:
        task, split = long_contexts, long_contexts.search
        answers = Predictor(task.kind, memory=0).predict(task.model, split).answers
        whole = task.kind.outcome(metric, split, answers)
        found = Stages(split)
        for stage in range(len(found.parts)):
            parts = [
                task.kind.outcome(metric, part, [answers[row] for row in own])
                for part, own in zip(found.parts[: stage + 1], found.rows, strict=False)
            ]
            np.testing.assert_array_equal(joined(parts).values, whole.values[found.seen(stage)])


def drawn(
    draw: np.random.Generator, count: int, rival: float, ours: float, changed: float
) -> tuple[Outcome, Outcome]:
    """Outcomes on a whole split with just these accuracies, ``changed`` answers being different."""
    right = np.zeros(count, bool)
    right[: round(rival * count)] = True
    other = right.copy()
    lost = round((changed + rival - ours) * count / 2)
    gained = round((changed - rival + ours) * count / 2)
    other[draw.choice(np.flatnonzero(right), lost, replace=False)] = False
    other[draw.choice(np.flatnonzero(~right), gained, replace=False)] = True
    return Outcome("mean", other), Outcome("mean", right)


def stopped(
    draw: np.random.Generator, ours: Outcome, rival: Outcome, ends: tuple[int, ...]
) -> NDArray[np.bool_]:
    """At which of the stages a recipe would be stopped."""
    order = draw.permutation(len(rival))
    return np.array([
        dominated(Outcome("mean", ours.values[order[:end]]), rival, order[:end]) for end in ends
    ])  # fmt: skip


class TestDominated:
    @pytest.mark.parametrize("count", [256, 872, 5000])
    @pytest.mark.parametrize("changed", [0.02, 0.1, 0.3])
    def test_an_equal_recipe_is_rarely_stopped(self, count: int, changed: float) -> None:
        """At most 5 % at each stage are asked for; what is more must be chance."""
        draw = np.random.default_rng(0)
        ends = (max(32, count // 8), count // 2)
        times = np.mean([
            stopped(draw, *drawn(draw, count, 0.8, 0.8, changed), ends) for _ in range(1500)
        ], axis=0)  # fmt: skip
        assert (times < 0.065).all(), times
        if changed == 0.3:
            assert (times > 0.01).all(), times  # nor is the rule so careful that it never acts

    def test_an_equal_recipe_of_a_metric_that_is_no_mean(self) -> None:
        draw, count = np.random.default_rng(0), 400
        labels = draw.integers(0, 2, count)
        times = []
        for _ in range(150):
            wrong = draw.permutation(count)
            first, second = labels.copy(), labels.copy()
            # Each is wrong on 30 positives and 30 negatives of its own: F1 is just the same.
            for answers, start in ((first, 0), (second, 30)):
                for label in (0, 1):
                    own = wrong[labels[wrong] == label][start : start + 30]
                    answers[own] = 1 - label
            ours, rival = (Outcome("f1", np.stack((labels, a), 1)) for a in (first, second))
            order = draw.permutation(count)[:100]
            times.append(dominated(Outcome("f1", ours.values[order]), rival, order))
        assert np.mean(times) < 0.1

    @pytest.mark.parametrize("count", [872, 5000])
    def test_a_much_worse_recipe_is_stopped(self, count: int) -> None:
        draw = np.random.default_rng(0)
        times = np.mean([
            stopped(draw, *drawn(draw, count, 0.9, 0.6, 0.35), (count // 8, count // 2))
            for _ in range(200)
        ], axis=0)  # fmt: skip
        assert (times > 0.95).all(), times

    def test_a_better_recipe_is_never_stopped(self) -> None:
        draw = np.random.default_rng(0)
        times = [stopped(draw, *drawn(draw, 872, 0.7, 0.8, 0.15), (109, 436)) for _ in range(200)]
        assert not np.any(times)

    def test_nothing_is_uncertain_once_all_is_seen(self) -> None:
        rival = Outcome("mean", np.arange(1000) < 800)
        worse = Outcome("mean", np.arange(1000) < 799)
        everything = np.arange(1000)
        assert dominated(worse, rival, everything)
        assert not dominated(rival, rival, everything)
        assert not dominated(rival, worse, everything)
        seen = np.arange(500, 1000)  # the same difference, with half to come
        assert not dominated(Outcome("mean", worse.values[seen]), rival, seen)

    def test_a_recipe_must_be_better_by_the_margin(self) -> None:
        draw = np.random.default_rng(0)
        ours, rival = drawn(draw, 5000, 0.8, 0.82, 0.1)
        order = draw.permutation(5000)[:2500]
        seen = Outcome("mean", ours.values[order])
        assert not dominated(seen, rival, order)
        assert not dominated(seen, rival, order, margin=0.02)
        assert dominated(seen, rival, order, margin=0.04)

    def test_one_wrong_answer_in_the_first_stage_is_no_proof(self) -> None:
        rival, seen = Outcome("mean", np.ones(256, bool)), np.arange(32)
        for wrong, stop in ((1, False), (2, False), (16, True), (32, True)):
            assert dominated(Outcome("mean", seen >= wrong), rival, seen) is stop


WORSE = Recipe.of(
    {SiteId(layer, "attention"): {"heads": Kept(of=4, kept=())} for layer in range(3)}
    | {SiteId(layer, "ffn"): {"ffn": Kept(of=64, kept=())} for layer in range(3)}
)
SLIGHT = Recipe.of({SiteId(2, "ffn"): {"ffn": Kept(of=64, kept=tuple(range(63)))}})


@pytest.fixture(scope="module")
def task(base_dir: Path, data_dir: Path) -> Task:
    return Task.load(str(base_dir), str(data_dir))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def long_contexts(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Questions, some of whose contexts are several windows long."""
    folder = tmp_path_factory.mktemp("qa")
    for seed, (name, count) in enumerate((("train", 40), ("validation", 70), ("test", 40))):
        found: list[dict[str, Any]] = rows("question-answering", count, seed)
        for number, row in enumerate(found):
            row["context"] += " word2" * (90 if number % 3 == 0 else 0)
        write_rows(folder / f"{name}.jsonl", found)
    model = tmp_path_factory.mktemp("model")
    with_head("question-answering", tiny_bert()).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    return Task.load(str(model), str(folder))


def key_of(task: Task) -> EvaluationKey:
    return EvaluationKey(
        task.model_fingerprint, task.calibration.fingerprint, task.search.fingerprint, "float32",
        task.metric,
    )  # fmt: skip


class TestEvaluator:
    def test_a_dominated_recipe_is_stopped_with_what_was_seen(
        self, task: Task, database: Database
    ) -> None:
        evaluator = Evaluator(task, database.engine, None)
        base = evaluator.accuracy(EXACT, task.search)
        told: list[tuple[float | None, float]] = []

        def rival(latency: float | None, size: float) -> Rival:
            told.append((latency, size))
            return Rival("trial 7", base.outcome)

        with pytest.raises(DominatedError, match="trial 7 after 32 examples") as stop:
            evaluator.measure(WORSE, rival=rival)
        size = evaluator.measure(WORSE).size_ratio
        assert told == [(None, pytest.approx(size))]
        first = evaluator.stages.examples[0]
        assert (stop.value.seen, stop.value.rival) == (len(first), "trial 7")
        whole = evaluator.accuracy(WORSE, task.search)
        assert stop.value.estimate == estimate(Outcome("mean", whole.outcome.values[first]))

    def test_nothing_is_kept_of_it_and_a_whole_evaluation_is_as_ever(
        self, task: Task, database: Database, tmp_path: Path
    ) -> None:
        evaluator = Evaluator(task, database.engine, None)
        base = evaluator.accuracy(EXACT, task.search)
        other = open_database(f"sqlite:///{tmp_path / 'other.db'}", create=True)
        plain = Evaluator(task, other.engine, None)
        wanted = plain.measure(WORSE)
        losses = plain.losses(WORSE)
        for _ in range(2):
            with pytest.raises(DominatedError):
                evaluator.measure(WORSE, rival=lambda *_: Rival("base", base.outcome))
            assert load_evaluation(database.engine, key_of(task), WORSE.hash) is None
        assert evaluator.measure(WORSE) == wanted
        np.testing.assert_array_equal(evaluator.losses(WORSE), losses)
        found = load_evaluation(database.engine, key_of(task), WORSE.hash)
        assert found is not None
        other.close()

    def test_a_recipe_that_goes_through_all_stages_is_as_one_without(
        self, task: Task, database: Database, tmp_path: Path
    ) -> None:
        evaluator = Evaluator(task, database.engine, None)
        base = evaluator.accuracy(EXACT, task.search)
        found = evaluator.measure(SLIGHT, rival=lambda *_: Rival("base", base.outcome))
        other = open_database(f"sqlite:///{tmp_path / 'other.db'}", create=True)
        plain = Evaluator(task, other.engine, None)
        assert plain.measure(SLIGHT) == found
        np.testing.assert_array_equal(plain.losses(SLIGHT), evaluator.losses(SLIGHT))
        # Neither are they other numbers than those of the split as a whole.
        whole = Predictor(task.kind, memory=0).predict(plain.shrink(SLIGHT), task.search)
        outcome = task.kind.outcome(task.metric, task.search, whole.answers)
        stored = plain.accuracy(SLIGHT, task.search)
        np.testing.assert_array_equal(outcome.values, stored.outcome.values)
        np.testing.assert_allclose(whole.losses, plain.losses(SLIGHT), atol=1e-5)
        other.close()

    def test_without_a_rival_nothing_is_stopped(self, task: Task, database: Database) -> None:
        evaluator = Evaluator(task, database.engine, None)
        asked: list[int] = []
        measured = evaluator.measure(WORSE, rival=lambda *_: asked.append(1))
        assert asked == [1]
        assert measured.accuracy < evaluator.base.accuracy - 0.2

    def test_what_is_stored_is_not_stopped(self, task: Task, database: Database) -> None:
        evaluator = Evaluator(task, database.engine, None)
        base = evaluator.accuracy(EXACT, task.search)
        known = evaluator.measure(WORSE)
        again = Evaluator(task, database.engine, None)
        assert again.measure(WORSE, rival=lambda *_: Rival("base", base.outcome)) == known
        assert again.predictor.layers_run == 0

    def test_stages_save_forward_passes(
        self, task: Task, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(staging, "FEWEST", 16)
        evaluator = Evaluator(task, database.engine, None)
        evaluator.predictor = Predictor(task.kind, memory=0)
        base = evaluator.accuracy(EXACT, task.search)
        assert evaluator.examples_forwarded == len(task.search)
        perfect = Outcome("mean", np.ones(len(base.outcome), bool))
        bad = Recipe.of({SiteId(2, "attention"): {"heads": Kept(of=4, kept=())},
                         SiteId(0, "ffn"): {"ffn": Kept(of=64, kept=())},
                         SiteId(1, "ffn"): {"ffn": Kept(of=64, kept=())},
                         SiteId(1, "attention"): {"heads": Kept(of=4, kept=(0,))}})  # fmt: skip
        always_wrong = Evaluator(task, database.engine, None)
        always_wrong.predictor = Predictor(task.kind, memory=0)
        monkeypatch.setattr(type(task.kind), "decode", lambda *args: [9] * len(args[-1]))
        with pytest.raises(DominatedError):
            always_wrong.accuracy(bad, task.search, rival=Rival("perfect", perfect))
        assert always_wrong.examples_forwarded == 16
