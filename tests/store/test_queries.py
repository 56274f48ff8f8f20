from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.errors import UsageError
from axsearch.space.recipe import Recipe
from axsearch.statistics.outcome import Outcome
from axsearch.store import queries as q
from axsearch.store import studies
from axsearch.store.database import Database, open_database

RECIPE = Recipe.of({SiteId(0, "attention"): {"heads": Kept(of=4, kept=(0, 2))}})
KEY = q.EvaluationKey("m" * 64, "c" * 64, "s" * 64, "float32", "accuracy")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url, create=True)
    for machine in ("here", "there"):
        studies.save_machine(opened.engine, machine, {"cores": 2, "versions": {"torch": "2"}})
    yield opened
    opened.close()


def test_recipes_are_kept_once_and_read_back(database: Database) -> None:
    q.save_with_recipe(database.engine, RECIPE)
    q.save_with_recipe(database.engine, RECIPE)
    assert q.load_recipes(database.engine, [RECIPE.hash, "unknown"]) == {RECIPE.hash: RECIPE}


def test_a_recipe_edited_in_the_database_is_refused(database: Database) -> None:
    q.save_with_recipe(database.engine, RECIPE)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE ax_recipes SET json = replace(json, '[0,2]', '[0,1]')"))
    with pytest.raises(UsageError, match=RECIPE.hash[:12]):
        q.load_recipes(database.engine, [RECIPE.hash])


@pytest.mark.parametrize("examples", [1, 8, 1003])
@pytest.mark.parametrize("kind", ["right", "scores", "pairs", "counts"])
def test_an_evaluation_comes_back_example_by_example(
    database: Database, examples: int, kind: str
) -> None:
    draw = np.random.default_rng(0)
    values = {
        "right": draw.random(examples) < 0.8,
        "scores": draw.random(examples),
        "pairs": draw.normal(size=(examples, 2)),
        "counts": draw.integers(0, 9, (examples, 3), dtype=np.int32),
    }[kind]
    result = q.Evaluation(0.8, 0.7, 0.9, Outcome(f"of {kind}", values))
    assert q.load_evaluation(database.engine, KEY, RECIPE.hash) is None
    for _ in range(2):  # a second worker with the same result does no harm
        q.save_evaluation(database.engine, KEY, RECIPE, "search", result)
    loaded = q.load_evaluation(database.engine, KEY, RECIPE.hash)
    assert loaded is not None
    assert (loaded.value, loaded.low, loaded.high) == (0.8, 0.7, 0.9)
    assert loaded.outcome.statistic == f"of {kind}"
    assert loaded.outcome.values.dtype == values.dtype
    np.testing.assert_array_equal(loaded.outcome.values, values)


def test_another_model_split_type_or_metric_is_another_evaluation(database: Database) -> None:
    result = q.Evaluation(0.8, 0.7, 0.9, Outcome("mean", np.array([True])))
    q.save_evaluation(database.engine, KEY, RECIPE, "search", result)
    for other in (
        q.EvaluationKey("x" * 64, KEY.calibration, KEY.split, KEY.dtype, KEY.metric),
        q.EvaluationKey(KEY.model, KEY.calibration, "x" * 64, KEY.dtype, KEY.metric),
        q.EvaluationKey(KEY.model, KEY.calibration, KEY.split, KEY.dtype, "f1"),
    ):
        assert q.load_evaluation(database.engine, other, RECIPE.hash) is None


@pytest.mark.parametrize("compensation", ["none", "bias"])
def test_a_recipe_s_evaluations_with_other_weights_are_others(
    database: Database, compensation: Any
) -> None:
    recipe = Recipe.of(
        {SiteId(0, "attention"): {"heads": Kept(of=4, kept=(0, 2))}}, compensation=compensation
    )
    trained = replace(KEY, weights="a" * 64)
    right = Outcome("mean", np.array([True, False]))
    for _ in range(2):  # a second worker with the same result does no harm
        for key, accuracy in ((KEY, 0.5), (trained, 0.75)):
            result = q.Evaluation(accuracy, 0.4, 0.9, right, np.ones(2, np.float32))
            q.save_evaluation(database.engine, key, recipe, "search", result)

    def found(key: q.EvaluationKey) -> list[float]:
        return [e.value for e in q.load_evaluations(database.engine, key, [recipe.hash]).values()]

    assert (found(KEY), found(trained)) == ([0.5], [0.75])
    assert found(replace(KEY, weights="b" * 64)) == []
    half = replace(trained, dtype="bfloat16")
    assert found(half) == [0.75]  # float32 serves where there is none in bfloat16: of its weights
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT weights, value FROM ax_evaluations")).all()
    assert sorted(map(tuple, rows)) == [("", 0.5), ("a" * 64, 0.75)]


def test_a_recipe_s_latencies_with_other_weights_are_others(database: Database) -> None:
    key = q.LatencyKey("m" * 64, "w" * 64, "here")
    trained = replace(key, weights="a" * 64)
    latency = {"model_ms": 5.0, "base_ms": 10.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "pairs": 5}
    entries = {"rest": 0.1}
    for one, ratio in ((key, 0.5), (trained, 0.25)):
        q.save_latency(database.engine, one, RECIPE, {}, {**latency, "ratio": ratio})
        q.save_latency_table(database.engine, one, {}, entries, 9)
    for one, ratio in ((key, 0.5), (trained, 0.25)):
        loaded = q.load_latency(database.engine, one, RECIPE.hash)
        assert loaded == {**latency, "ratio": ratio}
        assert q.load_ratios(database.engine, one, [RECIPE.hash]) == {RECIPE.hash: ratio}
    assert q.load_latency(database.engine, replace(key, weights="b" * 64), RECIPE.hash) is None
    with database.engine.connect() as connection:
        tables = text("SELECT weights FROM ax_latencies WHERE entry IS NOT NULL")
        assert sorted(connection.execute(tables).scalars()) == ["", "a" * 64]


def test_float32_serves_where_the_dtype_has_none_with_losses(database: Database) -> None:
    half = q.EvaluationKey(KEY.model, KEY.calibration, KEY.split, "bfloat16", KEY.metric)
    right = Outcome("mean", np.array([True]))

    def saved(key: q.EvaluationKey, loss: float | None) -> None:
        losses = None if loss is None else np.array([loss], np.float32)
        result = q.Evaluation(0.8, 0.7, 0.9, right, losses)
        q.save_evaluation(database.engine, key, RECIPE, "search", result)

    def loss_of(key: q.EvaluationKey) -> float | None:
        found = q.load_evaluation(database.engine, key, RECIPE.hash)
        return None if found is None or found.losses is None else float(found.losses[0])

    saved(KEY, None)  # as an older version did
    assert q.load_evaluation(database.engine, half, RECIPE.hash) is not None
    assert loss_of(half) is None
    saved(half, 0.25)
    assert loss_of(half) == 0.25
    assert loss_of(KEY) is None  # the other way round it does not serve
    saved(KEY, 0.5)
    assert (loss_of(half), loss_of(KEY)) == (0.25, 0.5)


def test_the_newest_latency_of_a_machine_is_read(database: Database) -> None:
    key = q.LatencyKey("m" * 64, "w" * 64, "here")
    first = {"model_ms": 5.0, "base_ms": 10.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "pairs": 5}
    second = {**first, "ratio": 0.6, "pairs": 7}
    for latency in (first, second):
        q.save_latency(database.engine, key, RECIPE, {"batch_size": 32}, latency)
    assert q.load_latency(database.engine, key, RECIPE.hash) == second
    elsewhere = q.LatencyKey(key.model, key.workload, "there")
    assert q.load_latency(database.engine, elsewhere, RECIPE.hash) is None


def test_calibrations_come_back(database: Database) -> None:
    q.save_calibration(database.engine, "m", "s", "kind", {"layer00.ffn": [0.1, 1e-30]})
    assert q.load_calibration(database.engine, "m", "s", "kind") == {"layer00.ffn": [0.1, 1e-30]}
    assert q.load_calibration(database.engine, "m", "s", "other") is None


def test_the_entries_of_a_latency_table_are_rows_and_no_recipe_s(database: Database) -> None:
    key = q.LatencyKey("m" * 64, "w" * 64, "here")
    for share in (0.3, 0.2):  # measured again, they take the place of the first
        entries = {"rest": 0.1, "attention heads=8": share}
        q.save_latency_table(database.engine, key, {"threads": 2}, entries, 9)
    with database.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT entry, ratio, pairs, recipe, low FROM ax_latencies ORDER BY entry")
        ).all()
    assert [tuple(row) for row in rows] == [
        ("attention heads=8", 0.2, 9, None, None), ("rest", 0.1, 9, None, None),
    ]  # fmt: skip
    assert q.load_ratios(database.engine, key, [RECIPE.hash]) == {}


def test_an_evaluation_that_was_stopped_is_another_stage_s(database: Database) -> None:
    part = q.Evaluation(0.6, 0.5, 0.7, Outcome("mean", np.array([True, False])))
    whole = q.Evaluation(0.8, 0.7, 0.9, Outcome("mean", np.array([True] * 4)), np.ones(4, "f4"))
    q.save_evaluation(database.engine, KEY, RECIPE, "search", part, "2/4")
    assert q.load_evaluation(database.engine, KEY, RECIPE.hash) is None
    q.save_evaluation(database.engine, KEY, RECIPE, "search", whole)
    for stage, result in (("2/4", part), (q.WHOLE, whole)):
        loaded = q.load_evaluation(database.engine, KEY, RECIPE.hash, stage)
        assert loaded is not None
        assert loaded.value == result.value
        assert (loaded.losses is None) == (result.losses is None)


def test_losses_come_back_to_the_last_bit(database: Database) -> None:
    losses = np.random.default_rng(0).exponential(size=1003).astype(np.float32)
    right = Outcome("mean", losses < 1)
    q.save_evaluation(
        database.engine, KEY, RECIPE, "search", q.Evaluation(0.8, 0.7, 0.9, right, losses)
    )
    loaded = q.load_evaluation(database.engine, KEY, RECIPE.hash)
    assert loaded is not None
    assert loaded.losses is not None
    assert loaded.losses.dtype == np.float32
    np.testing.assert_array_equal(loaded.losses, losses)


def test_an_evaluation_without_losses_is_replaced_by_one_with_them(database: Database) -> None:
    right = Outcome("mean", np.array([True, False]))
    old = q.Evaluation(0.5, 0.1, 0.9, right)
    new = q.Evaluation(0.5, 0.2, 0.8, right, np.array([0.1, 2.0], np.float32))
    for result in (old, new):
        q.save_evaluation(database.engine, KEY, RECIPE, "search", result)
        loaded = q.load_evaluation(database.engine, KEY, RECIPE.hash)
        assert loaded is not None
        assert (loaded.losses is None) == (result is old)
        assert loaded.low == result.low
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ax_evaluations")).scalar() == 1


def test_a_recipe_and_what_names_it_are_written_in_one_transaction(database: Database) -> None:
    commits: list[int] = []
    event.listen(database.engine, "commit", lambda _: commits.append(1))
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    right = Outcome("mean", np.array([True]))
    q.save_evaluation(database.engine, KEY, RECIPE, "search", q.Evaluation(1.0, 0.2, 1.0, right))
    written = [s.split()[2] for s in statements if s.startswith("INSERT")]
    assert written == ["ax_recipes", "ax_evaluations"]
    assert len(commits) == 1
    latency = {"model_ms": 5.0, "base_ms": 10.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "pairs": 5}
    other = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=4, kept=(1,))}})
    key = q.LatencyKey("m" * 64, "w" * 64, "here")
    q.save_latency(database.engine, key, other, {}, latency)
    q.save_with_recipe(database.engine, RECIPE)  # it is there: nothing to write
    assert len(commits) == 2


@pytest.mark.parametrize("kind", ["evaluation", "latency"])
def test_two_workers_write_the_same_new_recipe_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The other one is quicker, between our look and our write."""
    right = Outcome("mean", np.array([True]))
    key = q.LatencyKey("m" * 64, "w" * 64, "here")
    latency = {"model_ms": 5.0, "base_ms": 10.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "pairs": 5}

    def save() -> None:
        if kind == "evaluation":
            result = q.Evaluation(1.0, 0.2, 1.0, right, np.ones(1, np.float32))
            q.save_evaluation(database.engine, KEY, RECIPE, "search", result)
        else:
            q.save_latency(database.engine, key, RECIPE, {}, latency)

    get = Session.get
    waiting = [True]

    def late(self: Session, *args: Any, **kwargs: Any) -> object:
        found: object = get(self, *args, **kwargs)
        if waiting:
            waiting.pop()
            self.rollback()
            save()
        return found

    monkeypatch.setattr(Session, "get", late)
    save()
    assert not waiting
    with database.engine.connect() as connection:
        for table, count in (("recipes", 1), ("evaluations", 1), ("latencies", 2)):
            there = connection.execute(text(f"SELECT count(*) FROM ax_{table}")).scalar()
            wanted = count if table in ("recipes", f"{kind}s", f"{kind[:-1]}ies") else 0
            assert there == wanted, table


def test_the_newest_ratio_of_each_recipe_that_was_timed(database: Database) -> None:
    key = q.LatencyKey("m" * 64, "w" * 64, "here")
    latency = {"model_ms": 5.0, "base_ms": 10.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "pairs": 5}
    for ratio in (0.5, 0.6):
        q.save_latency(database.engine, key, RECIPE, {}, {**latency, "ratio": ratio})
    elsewhere = q.LatencyKey(key.model, key.workload, "there")
    q.save_latency(database.engine, elsewhere, RECIPE, {}, {**latency, "ratio": 0.1})
    assert q.load_ratios(database.engine, key, [RECIPE.hash, "unknown"]) == {RECIPE.hash: 0.6}
