from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from optuna.study import StudyDirection
from sqlalchemy import text

from axsearch.space.recipe import Recipe
from axsearch.store import studies as s
from axsearch.store.attributes import IDENTITY_ATTR
from axsearch.store.database import Database, open_database

SPEC: dict[str, Any] = {
    "model": "base",
    "model_fingerprint": "m" * 64,
    "task": "text-classification",
    "metric": "accuracy",
    "data": "reviews",
    "splits": {"calibration": "c" * 64, "search": "s" * 64, "holdout": "h" * 64},
    "machine": "here",
    "objectives": ["accuracy", "size"],
    "levels": [1, None],
}
MODEL = s.ModelFacts("base", "bert", 90_000_000, 22_000_000)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url, create=True)
    s.save_machine(opened.engine, "here", {"cores": 2, "versions": {"torch": "2.13"}})
    yield opened
    opened.close()


def test_a_study_its_model_task_and_machine_are_kept_once(database: Database) -> None:
    assert s.study_spec(database.engine, "one") is None
    for name in ("one", "two", "one"):
        s.save_study(database.engine, name, 1, SPEC, MODEL)
        s.save_machine(database.engine, "here", {"cores": 99})
    s.save_study(database.engine, "one", 1, {**SPEC, "levels": [2]}, MODEL)  # it was first
    assert s.study_spec(database.engine, "one") == SPEC
    assert s.study_names(database.engine) == ["one", "two"]
    with database.engine.connect() as connection:
        row = connection.execute(
            text(
                "SELECT m.architecture, m.size_bytes, t.metric, t.holdout, h.cores, s.objectives"
                " FROM ax_studies s JOIN ax_models m ON m.fingerprint = s.model"
                " JOIN ax_tasks t ON t.fingerprint = s.task"
                " JOIN ax_machines h ON h.name = s.machine WHERE s.name = 'one'"
            )
        ).one()
        counts = [
            connection.execute(text(f"SELECT count(*) FROM ax_{table}")).scalar()
            for table in ("models", "tasks", "machines", "studies")
        ]
    assert tuple(row) == ("bert", 90_000_000, "accuracy", "h" * 64, 2, "accuracy,size")
    assert counts == [1, 1, 1, 2]


def test_another_metric_or_split_is_another_task(database: Database) -> None:
    s.save_study(database.engine, "one", 1, SPEC, MODEL)
    s.save_study(database.engine, "two", 2, {**SPEC, "metric": "f1"}, MODEL)
    splits = {**SPEC["splits"], "search": "x" * 64}
    s.save_study(database.engine, "three", 3, {**SPEC, "splits": splits}, MODEL)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ax_tasks")).scalar() == 3


def test_what_was_asked_for_last(database: Database) -> None:
    s.save_study(database.engine, "one", 1, SPEC, MODEL)
    assert s.asked_for(database.engine, "one") is None
    s.ask_for(database.engine, "one", 20, {"sampler": "auto"})
    s.ask_for(database.engine, "one", 50, {"sampler": "tpe"})
    assert s.asked_for(database.engine, "one") == (50, {"sampler": "tpe"})
    assert s.asked_for(database.engine, "none") is None


def test_a_deleted_study_is_forgotten(database: Database) -> None:
    s.save_study(database.engine, "one", 1, SPEC, MODEL)
    s.delete_study(database.engine, "one")
    assert s.study_spec(database.engine, "one") is None


def test_exports_are_kept(database: Database) -> None:
    for path in ("small", "small again"):
        s.save_export(database.engine, "one", 7, Recipe.of({}), "hf", path, "5" * 64)
    s.save_export(
        database.engine, "one", 7, Recipe.of({}), "hf", "trained", "6" * 64, weights="a" * 64
    )
    columns = "study, trial, format, path, weights"
    with database.engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM ax_exports")).all()
    assert sorted(map(tuple, rows)) == [
        ("one", 7, "hf", "small", ""),
        ("one", 7, "hf", "small again", ""),
        ("one", 7, "hf", "trained", "a" * 64),
    ]


def test_two_that_write_attributes_at_once_leave_the_text_of_one(database: Database) -> None:
    number = database.storage.create_new_study([StudyDirection.MINIMIZE], "s")

    def write(letter: str, parts: int) -> None:
        for _ in range(20):
            s.change_attributes(
                database.engine,
                number,
                lambda before: {
                    **dict.fromkeys(before, ""),
                    **{f"part{n}": letter for n in range(parts)},
                },
            )

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(write, *given) for given in (("a", 9), ("b", 3))]:
            done.result()
    left = database.storage.get_study_system_attrs(number)
    assert "".join(left[f"part{n}"] for n in range(9)) in ("a" * 9, "b" * 3)


def test_of_a_study_that_is_gone_no_attribute_is_written(database: Database) -> None:
    s.change_attributes(database.engine, 7, lambda before: {"a": "b"})
    with database.engine.connect() as connection:
        count = text("SELECT count(*) FROM study_system_attributes")
        assert connection.execute(count).scalar() == 0


def test_only_attributes_that_changed_are_written(database: Database) -> None:
    number = database.storage.create_new_study([StudyDirection.MINIMIZE], "s")
    other = database.storage.create_new_study([StudyDirection.MINIMIZE], "other")
    database.storage.set_study_system_attr(other, "a", 1)
    for given in ({"a": 1, "b": "x"}, {"a": 1, "b": "y", "c": [None]}, {"c": {}}):
        s.change_attributes(database.engine, number, lambda before, given=given: given)  # type: ignore[misc]
    left, theirs = map(database.storage.get_study_system_attrs, (number, other))
    assert left.pop(IDENTITY_ATTR) != theirs.pop(IDENTITY_ATTR)
    assert left == {"a": 1, "b": "y", "c": {}}
    assert theirs == {"a": 1}
