"""A study of five trials, made without a model, and edits of the database that holds it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import create_trial

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.space.recipe import Recipe
from axsearch.statistics.outcome import Outcome
from axsearch.store import queries as q
from axsearch.store.database import open_database
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.studies import ModelFacts, save_machine, save_study

NAME = "five"
LAYERS, HEADS, NEURONS = 2, 4, 64
SPEC: dict[str, Any] = {
    "model": "base", "data": "reviews", "task": "text-classification", "metric": "accuracy",
    "text_columns": ["text"], "label_column": None, "search_examples": 80,
    "objectives": ["accuracy", "latency", "size"],
    "scenario": {
        "batch_size": 4, "sequence_length": None, "threads": 1, "device": "cpu",
        "runtime": "torch", "precision": "float32",
    },
    "max_drop": 0.1, "max_latency_ratio": None, "max_size_ratio": 0.99, "device": "cpu",
    "machine": "here", "seed": 0, "model_fingerprint": "m" * 64,
    "splits": {"calibration": "c" * 64, "search": "s" * 64, "holdout": "h" * 64},
    "levels": {"layer00.heads": [4, 2, 0], "layer01.topk": [None, 16]},
    "compensation": "none", "dtype": "float32", "space_fingerprint": "f" * 64, "workload": "w" * 64,
}  # fmt: skip


def _recipe(layer: int, kind: Any, **choices: Choice) -> Recipe:
    return Recipe.of({SiteId(layer, kind): choices})


RECIPES = [
    Recipe.of({}),
    _recipe(0, "attention", heads=Kept(of=HEADS, kept=(0, 1))),
    _recipe(1, "ffn", ffn=Kept(of=NEURONS, kept=())),
    _recipe(1, "attention", topk=Setting(value=16, mode="hard")),
    _recipe(0, "ffn", ffn=Kept(of=NEURONS, kept=tuple(range(8)))),
]
VALUES = [(0.9, 1.0, 1.0), (0.88, 0.8, 0.9), (0.85, 0.6, 0.7), (0.86, 0.9, 0.95), (0.7, 0.5, 0.6)]
"""Accuracy, latency and size of each: trial 3 is dominated by trial 1, trial 4 drops too much."""


def choices(trial: int) -> dict[str, dict[str, int | None]]:
    """What a trial keeps, layer by layer."""
    whole = {"heads": HEADS, "topk": None, "ffn": NEURONS, "ffn_topk": None}
    kept: dict[str, dict[str, int | None]] = {f"layer{n:02d}": {**whole} for n in range(LAYERS)}
    changed = {1: ("layer00", "heads", 2), 2: ("layer01", "ffn", 0), 3: ("layer01", "topk", 16)}
    layer, name, value = {**changed, 4: ("layer00", "ffn", 8)}.get(trial, ("layer00", "topk", None))
    kept[layer][name] = value
    return kept


def measurement(trial: int) -> dict[str, Any]:
    """What is kept with a trial."""
    accuracy, latency, size = VALUES[trial]
    return {
        "accuracy": accuracy, "accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05,
        "latency_ms": 20 * latency, "latency_ratio": latency, "latency_measured": False,
        "size_bytes": int(1e6 * size), "size_ratio": size, "parameters": int(2e5 * size),
        "choices": choices(trial),
    }  # fmt: skip


def make(path: Path) -> str:
    """Write the study to a SQLite file; its URL."""
    url = f"sqlite:///{path}"
    database = open_database(url, create=True)
    engine = database.engine
    save_machine(engine, "here", {"cores": 2})
    study = optuna.create_study(
        study_name=NAME, storage=database.storage, directions=["maximize", "minimize", "minimize"]
    )
    save_study(engine, NAME, id_of_study(study), SPEC, ModelFacts("base", "bert", 1, 1))
    for trial, recipe in enumerate(RECIPES):
        q.save_with_recipe(engine, recipe)
        attributes = {"recipe": recipe.hash, "measurement": measurement(trial), "mean_loss": 0.5}
        study.add_trial(create_trial(values=list(VALUES[trial]), user_attrs=attributes))
    right = np.array([True, True, False])
    opened = q.Evaluation(0.875, 0.8, 0.9, Outcome("mean", right), np.ones(3, np.float32))
    key = q.EvaluationKey("m" * 64, "c" * 64, "h" * 64, "float32", "accuracy")
    q.save_evaluation(engine, key, RECIPES[1], "holdout", opened)
    timed = {"model_ms": 11.0, "base_ms": 20.0, "ratio": 0.55, "low": 0.5, "high": 0.6, "pairs": 5}
    q.save_latency(engine, q.LatencyKey("m" * 64, "w" * 64, "here"), RECIPES[2], {}, timed)
    database.close()
    return url


SET_SPEC = "UPDATE ax_studies SET spec = ?"
SET_SETTINGS = "UPDATE ax_studies SET settings = ?, trials = 7"
SETTINGS: dict[str, Any] = {
    "sampler": "auto", "epsilon": None, "staged": True, "approximations": None,
    "freeze": ["layer00"],
}  # fmt: skip
OF_TRIAL = "WHERE key = ? AND trial_id = (SELECT trial_id FROM trials WHERE number = ?)"
SET_ATTRIBUTE = f"UPDATE trial_user_attributes SET value_json = ? {OF_TRIAL}"
DROP_ATTRIBUTE = f"DELETE FROM trial_user_attributes {OF_TRIAL}"
AS_MADE: list[tuple[Any, ...]] = [
    (SET_SPEC, json.dumps(SPEC)),
    *((SET_ATTRIBUTE, json.dumps(r.hash), "recipe", trial) for trial, r in enumerate(RECIPES)),
    *((SET_ATTRIBUTE, json.dumps(measurement(t)), "measurement", t) for t in range(len(RECIPES))),
]
"""Edits that undo edits of specification and attributes."""


def edit(path: Path, *statements: tuple[Any, ...]) -> None:
    """Change the database behind axsearch's back: statements, each with its values."""
    connection = sqlite3.connect(path)
    with connection:
        for statement, *values in statements:
            connection.execute(statement, values)
    connection.close()
