"""The queries in docs/asking-in-sql.md run as written, on every kind of database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from sqlalchemy import insert, text

from axsearch.store.database import open_database
from axsearch.store.models import LatencyRow, RecipeRow, TrialRow
from axsearch.store.studies import ModelFacts, save_machine, save_study

PAGE = (Path(__file__).parents[2] / "docs" / "asking-in-sql.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
SPEC = {
    "model": "m", "model_fingerprint": "m", "task": "t", "metric": "accuracy", "data": "d",
    "splits": dict.fromkeys(("calibration", "search", "holdout"), "s"), "machine": "here",
    "objectives": ["accuracy", "latency", "size"],
}  # fmt: skip
BASE, SMALL, SLOW = (0.9, 1.0, 1.0), (0.895, 0.5, 0.6), (0.8, 0.7, 0.9)

ANSWERS = [
    [(1, 0.895, 0.5, 0.6), (0, 0.9, 1.0, 1.0)],
    [("sst2", 0.5)],
    [("layer01.ffn", 1.0)],
    [("here", "v", 1, 0.895, 0.45), ("here", "w", 1, 0.895, 0.55)],
    [("me", 3, 3.0)],
]


@pytest.mark.parametrize("number", range(5))
def test_a_query_returns_the_rows_that_the_page_promises(url: str, number: int) -> None:
    assert len(QUERIES) == 5
    database = open_database(url, create=True)
    storage, engine = database.storage, database.engine
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "sst2")
    save_machine(engine, "here", {})
    save_study(engine, "sst2", study, SPEC, ModelFacts("m", "bert", 1, 1))
    for name, values in (("base", BASE), ("small", SMALL), ("slow", SLOW)):
        trial = storage.create_new_trial(study)
        if name != "base":  # of the small one's parameters both are cut, of the slow one's none
            with engine.begin() as connection:
                connection.execute(
                    text(
                        "INSERT INTO trial_params (trial_id, param_name, param_value,"
                        " distribution_json) VALUES (:t, 'layer01.ffn', :v, '{}')"
                    ),
                    {"t": trial, "v": 1 if name == "small" else 0},
                )
        accuracy, latency, size = values
        with engine.begin() as connection:
            connection.execute(insert(RecipeRow).values(hash=name, json="{}"))
            connection.execute(
                insert(TrialRow).values(
                    study_id=study, recipe=name, trial_id=trial, attempt=1, finished=True,
                    feasible=True, accuracy=accuracy, latency=latency, size=size,
                    latency_ratio=latency, size_ratio=size, seconds=3600, worker="me",
                )
            )  # fmt: skip
    with engine.begin() as connection:
        row = {"model": "m", "workload": "w", "machine": "here", "scenario": {}, "pairs": 5}
        for ratio, changed in [  # the last of one model, machine and workload counts
            (0.4, {}), (0.55, {}), (0.45, {"workload": "v"}), (0.3, {"model": "other"}),
        ]:  # fmt: skip
            timed = {**row, **changed}
            connection.execute(insert(LatencyRow).values(recipe="small", ratio=ratio, **timed))
        connection.execute(insert(LatencyRow).values(entry="rest", ratio=0.1, **row))
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(QUERIES[number]))]
    database.close()
    assert rows == ANSWERS[number]
