"""Staged evaluation: what the stages are, who is stopped, and what the Evaluator makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axsearch import Task
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.evaluation import stages as staging
from axsearch.evaluation.accuracy import Predictor
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.stages import DominatedError, Stages, Threshold, contested, joined, worth
from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Outcome
from axsearch.statistics.pareto import hypervolume
from axsearch.store.database import Database, open_database
from axsearch.store.queries import EvaluationKey, load_evaluation
from axsearch.tasks.split import Split
from axsearch.testing.samples import rows, with_head, write_rows
from axsearch.testing.text import tiny_bert, tiny_tokenizer


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
        # The store calls a stage by examples, of which there are fewer than windows.
        assert found.name(32) == f"32/{split.owners[-1] + 1}"

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


def estimates(
    stages: Stages, stage: int, ours: Outcome, known: list[Outcome]
) -> tuple[float, float]:
    seen = stages.seen(stage)
    return stages.estimate(Outcome(ours.statistic, ours.values[seen]), stage, known)


class TestEstimate:
    @pytest.mark.parametrize("stage", [0, 1])
    @pytest.mark.parametrize("changed", [0.02, 0.1, 0.3])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_it_is_right_on_average_and_as_far_off_as_it_says(
        self, weighted: bool, changed: float, stage: int
    ) -> None:
        draw, count = np.random.default_rng(0), 800
        weights = np.random.default_rng(7).uniform(0.05, 0.5, count)
        stages = Stages(split_of(count), weights if weighted else None)
        off = []
        for _ in range(1500):
            ours, rival = drawn(draw, count, 0.8, 0.78, changed)
            mixed = draw.permutation(count)  # or both would be right on the first examples
            ours, rival = (Outcome("mean", o.values[mixed]) for o in (ours, rival))
            value, error = estimates(stages, stage, ours, [rival])
            off.append(((value - 0.78), (value - 0.78) / error))
        bias, far = np.array(off).T
        assert abs(bias.mean()) < 4 * bias.std() / np.sqrt(len(bias))
        assert np.mean(far < -1.96) < 0.04
        if changed > 0.02:  # of two or three differences seen none may be to its disadvantage
            assert np.mean(np.abs(far) < 1.96) > 0.93
        # A recipe that reaches it only just is stopped by one stage in at most 16 % of cases.
        assert np.mean(far < -1) < 0.19

    def test_examples_on_which_recipes_differ_come_first_and_tell_more(self) -> None:
        draw, count = np.random.default_rng(0), 800
        weights = np.where(np.arange(count) % 4 == 0, 0.5, 0.05)
        contested, plain = Stages(split_of(count), weights), Stages(split_of(count))
        assert (contested.examples[0] % 4 == 0).mean() > 0.6
        errors = []
        for _ in range(200):
            right = np.ones(count, bool)
            other = right.copy()
            other[draw.choice(np.arange(0, count, 4), 30, replace=False)] = False
            pair = Outcome("mean", other), [Outcome("mean", right)]
            errors.append([estimates(s, 0, *pair)[0] - other.mean() for s in (contested, plain)])
        spread = np.std(errors, axis=0)
        assert spread[0] < 0.6 * spread[1]

    @pytest.mark.parametrize("statistic", ["mean", "f1"])
    def test_it_compares_with_what_differs_least(self, statistic: str) -> None:
        draw, count = np.random.default_rng(0), 800
        ours, rival = drawn(draw, count, 0.8, 0.7, 0.3)
        sibling = Outcome("mean", ours.values.copy())
        sibling.values[:3] ^= True
        if statistic == "f1":
            labels = draw.integers(0, 2, count)
            ours, rival, sibling = (
                Outcome("f1", np.stack((labels, np.where(o.values, labels, 1 - labels)), 1))
                for o in (ours, rival, sibling)
            )
        stages = Stages(split_of(count))
        assert estimates(stages, 0, ours, [rival, sibling]) == estimates(stages, 0, ours, [sibling])
        assert estimates(stages, 0, ours, [sibling])[1] < estimates(stages, 0, ours, [rival])[1]

    def test_an_equal_recipe_of_a_metric_that_is_no_mean(self) -> None:
        draw, count = np.random.default_rng(0), 400
        labels = draw.integers(0, 2, count)
        stages = Stages(split_of(count))
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
            found, error = estimates(stages, 1, ours, [rival])
            times.append(found + error < value(rival))
        assert 0.05 < np.mean(times) < 0.25

    @pytest.mark.parametrize("statistic", ["mean", "f1"])
    def test_nothing_is_uncertain_once_all_is_seen(self, statistic: str) -> None:
        right = np.arange(400) < 300
        ours = Outcome("mean", right) if statistic == "mean" else Outcome(
            "f1", np.stack((np.ones(400, int), right.astype(int)), 1)
        )  # fmt: skip
        other = Outcome(statistic, np.roll(ours.values, 7, axis=0))
        stages = Stages(split_of(400), np.linspace(0.05, 0.5, 400) if statistic == "mean" else None)
        found, error = estimates(stages, 2, ours, [other])
        assert (found, error) == (pytest.approx(value(ours)), 0.0)

    def test_nor_are_few_that_agree_for_another_metric(self) -> None:
        """A bootstrap of differences that are all nothing has no spread: all was 'certain'."""
        labels = np.arange(400) % 2
        right = Outcome("f1", np.stack((labels, labels), 1))
        found, error = estimates(Stages(split_of(400)), 0, right, [right])
        assert found == 1.0
        assert error > 0.9 * np.sqrt(7 / 8) / 50

    def test_few_that_all_agree_are_no_proof(self) -> None:
        right = Outcome("mean", np.ones(256, bool))
        found, error = estimates(Stages(split_of(256)), 0, right, [right])
        assert (found, error) == (1.0, pytest.approx(np.sqrt(7 / 8) / 32))


class TestContested:
    def test_it_is_the_spread_of_the_right_answer(self) -> None:
        losses = np.array([np.log(2), 0.0, 50.0, -np.log(0.9)], np.float32)
        np.testing.assert_allclose(
            contested(losses, np.arange(4)), [0.5, 0.05, 0.05, 0.3], rtol=1e-5
        )

    def test_an_example_of_several_windows_has_their_mean_loss(self) -> None:
        losses = np.array([0.0, 2 * np.log(2), 0.0], np.float32)
        np.testing.assert_allclose(contested(losses, np.array([0, 0, 1])), [0.5, 0.05], rtol=1e-5)


class TestWorth:
    FRONT = np.array([0.9, 0.8]), np.array([[1.0], [0.5]])

    def test_it_adds_the_least_gain(self) -> None:
        accuracy, costs = self.FRONT
        before = hypervolume(costs, accuracy, 0.5)
        own = np.array([0.4])
        found = worth(0.5, own, accuracy, costs, 0.5)
        gains = [
            hypervolume(np.append(costs, [own], 0), np.append(accuracy, at), 0.5) - before
            for at in (found - 0.01, found)
        ]
        assert gains[0] < staging.LEAST_GAIN * before
        assert gains[1] == pytest.approx(staging.LEAST_GAIN * before, rel=1e-6)

    def test_at_no_gain_it_is_above_all(self) -> None:
        """A recipe that costs as much as the base has nothing to cover."""
        accuracy, costs = self.FRONT
        assert worth(0.9, np.array([1.0]), accuracy, costs, 0.5) > 0.9

    def test_with_no_front_yet_anything_that_counts_is_worth_it(self) -> None:
        found = worth(0.5, np.array([0.4]), np.empty(0), np.empty((0, 1)), 0.5)
        assert 0.5 <= found < 0.501


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

        def threshold(latency: float | None, size: float) -> Threshold:
            told.append((latency, size))
            return Threshold("trial 7", base.value, [base.outcome])

        with pytest.raises(DominatedError, match="trial 7 after 32 examples") as stop:
            evaluator.measure(WORSE, threshold=threshold)
        size = evaluator.measure(WORSE).size_ratio
        assert told == [(None, pytest.approx(size))]
        first = evaluator.stages.examples[0]
        assert (stop.value.seen, stop.value.rival) == (len(first), "trial 7")
        whole = evaluator.accuracy(WORSE, task.search)
        seen = Outcome("mean", whole.outcome.values[first])
        found, error = evaluator.stages.estimate(seen, 0, [base.outcome])
        assert stop.value.estimate.value == pytest.approx(found)
        assert stop.value.estimate.low == pytest.approx(found - 1.96 * error)
        assert stop.value.estimate.low < whole.value < stop.value.estimate.high

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
                evaluator.measure(
                    WORSE, threshold=lambda *_: Threshold("base", base.value, [base.outcome])
                )
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
        found = evaluator.measure(
            SLIGHT, threshold=lambda *_: Threshold("base", base.value, [base.outcome])
        )
        other = open_database(f"sqlite:///{tmp_path / 'other.db'}", create=True)
        plain = Evaluator(task, other.engine, None)
        assert plain.measure(SLIGHT) == found
        ours, theirs = (e.accuracy(SLIGHT, task.search) for e in (plain, evaluator))
        np.testing.assert_array_equal(ours.outcome.values, theirs.outcome.values)
        np.testing.assert_allclose(plain.losses(SLIGHT), evaluator.losses(SLIGHT), atol=1e-5)
        other.close()

    def test_without_a_bar_nothing_is_stopped(self, task: Task, database: Database) -> None:
        evaluator = Evaluator(task, database.engine, None)
        asked: list[int] = []
        measured = evaluator.measure(WORSE, threshold=lambda *_: asked.append(1))
        assert asked == [1]
        assert measured.accuracy < evaluator.baseline.accuracy - 0.2

    def test_what_is_stored_is_not_stopped(self, task: Task, database: Database) -> None:
        evaluator = Evaluator(task, database.engine, None)
        base = evaluator.accuracy(EXACT, task.search)
        known = evaluator.measure(WORSE)
        again = Evaluator(task, database.engine, None)
        assert (
            again.measure(WORSE, threshold=lambda *_: Threshold("base", base.value, [base.outcome]))
            == known
        )
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
            always_wrong.accuracy(bad, task.search, threshold=Threshold("perfect", 1.0, [perfect]))
        assert always_wrong.examples_forwarded == 16
