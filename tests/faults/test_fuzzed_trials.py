"""Trials as anything may have edited them: shown as they were measured, or refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import create_trial

from axsearch.cli.explain import explain
from axsearch.cli.front import print_front, print_json
from axsearch.errors import AxsearchError, UsageError
from axsearch.reporting.dashboard.annotating import annotate
from axsearch.statistics.measurement import Measurement
from axsearch.study.study import Study
from tests.faults.checks import map_of, number, optional, positive, whole
from tests.faults.sentences import fuzz, sentence
from tests.faults.studies import (
    AS_MADE,
    DROP_ATTRIBUTE,
    NAME,
    RECIPES,
    SET_ATTRIBUTE,
    VALUES,
    choices,
    edit,
    make,
    measurement,
)
from tests.mutations import KEYS, STRANGE, changed, doubled, parsed, spliced


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("studies") / "studies.db"
    make(file)
    return file


@pytest.fixture(scope="module")
def study(path: Path) -> Iterator[Study]:
    opened = Study.open(f"sqlite:///{path}", NAME)
    yield opened
    opened.database.close()


def kept(data: Any, trial: int) -> dict[str, Any] | None:
    """What the measurement of a trial says; None where it cannot be that trial's."""
    fields = {
        "accuracy": number, "accuracy_low": number, "accuracy_high": number,
        "latency_ms": positive, "latency_ratio": positive,
        "latency_measured": lambda v: isinstance(v, bool), "size_bytes": whole(1),
        "size_ratio": positive, "parameters": whole(1),
        "choices": map_of(map_of(optional(lambda v: type(v) is int))),
    }  # fmt: skip
    if not isinstance(data, dict) or set(data) != set(fields):
        return None
    if not all(check(data[name]) for name, check in fields.items()):
        return None
    told = (data["accuracy"], data["latency_ratio"], data["size_ratio"])
    if not all(math.isclose(a, b) for a, b in zip(told, VALUES[trial], strict=True)):
        return None
    return data if given_of(data["choices"]) == given_of(choices(trial)) else None


def given_of(choices: dict[str, dict[str, int | None]]) -> dict[str, dict[str, int]]:
    """What is not null: an approximation that is not used may be named or not."""
    return {
        layer: {name: value for name, value in found.items() if value is not None}
        for layer, found in choices.items()
    }


def assert_shown(study: Study, trial: int, expected: dict[str, Any] | None) -> None:
    """The trial is shown as expected, or the whole study is refused with a sentence about it."""
    shown, message = None, ""
    try:
        shown = Study(study.database, NAME, study.spec).trial(trial)  # which reads anew
    except UsageError as error:
        message = sentence(error)
    assert (shown is None) == (expected is None)
    if shown is None or expected is None:
        where = r"Trial \d (of study 'five'|in this database) is damaged|The stored recipe"
        assert re.match(where, message)
        return
    timed = {"latency_ms", "latency_ratio", "latency_measured"} if trial == 2 else set()
    for name in set(expected) - timed - {"choices"}:
        assert getattr(shown, name) == expected[name]
    assert shown.recipe == RECIPES[trial].to_dict()
    assert given_of(shown.choices) == given_of(choices(trial))


LIKELY_VALUES = st.sampled_from([0.88, 0.9, 0.85, 0.8, 1.0, 1, 2, 4, 64, 0, None, True, "0.88"])
ATTRIBUTES = st.sampled_from(
    ["accuracy_low", "latency_ms", "trial", "recipe", "holdout_accuracy", "latency_predicted"]
)


@fuzz(300)
@given(st.integers(0, len(RECIPES) - 1), st.data())
def test_measurement(path: Path, study: Study, trial: int, draw: st.DataObject) -> None:
    right = st.just(measurement(trial))
    written = draw.draw(
        st.one_of(
            changed(right, LIKELY_VALUES, ATTRIBUTES, most=1).map(json.dumps),
            changed(right, STRANGE | LIKELY_VALUES, KEYS | ATTRIBUTES).map(json.dumps),
            doubled(right),
            spliced(right.map(json.dumps)),
            STRANGE.map(json.dumps),
        )
    )
    edit(path, *AS_MADE, (SET_ATTRIBUTE, written, "measurement", trial))
    assert_shown(study, trial, kept(parsed(written), trial))


@fuzz(100)
@given(st.integers(0, len(RECIPES) - 1), st.data())
def test_recipe_of_a_trial(path: Path, study: Study, trial: int, draw: st.DataObject) -> None:
    hashes = [recipe.hash for recipe in RECIPES]
    name = draw.draw(
        STRANGE
        | st.sampled_from([*hashes, hashes[0].upper(), hashes[trial][:-1], hashes[trial] + "\n"])
        | st.text(max_size=64)
    )
    edit(path, *AS_MADE, (SET_ATTRIBUTE, json.dumps(name), "recipe", trial))
    assert_shown(study, trial, measurement(trial) if name == hashes[trial] else None)


@pytest.mark.parametrize("key", ["recipe", "measurement"])
def test_attribute_that_is_missing(tmp_path: Path, key: str) -> None:
    study = Study.open(make(tmp_path / "studies.db"), NAME)
    edit(tmp_path / "studies.db", (DROP_ATTRIBUTE, key, 3))
    assert_shown(study, 3, None)
    study.database.close()


@pytest.mark.parametrize("values", [[0.8, 0.5, 0.5], [0.8, 0.5, math.inf]])
def test_trial_that_was_added_by_hand(tmp_path: Path, values: list[float]) -> None:
    url = make(tmp_path / "studies.db")
    by_hand = optuna.load_study(study_name=NAME, storage=url)
    by_hand.add_trial(create_trial(values=values, user_attrs={"note": math.nan}))
    study = Study.open(url, NAME)
    for use in (lambda: study.front(), lambda: study.pick(knee=True), lambda: annotate(study)):
        with pytest.raises(
            UsageError, match=r"Trial 5 of study 'five' .* names no recipe"
        ) as refused:
            use()
        sentence(refused.value)
    study.database.close()


def test_values_that_were_edited(tmp_path: Path) -> None:
    study = Study.open(make(tmp_path / "studies.db"), NAME)
    edit(tmp_path / "studies.db", ("UPDATE trial_values SET value = 0.95 WHERE value = 0.88",))
    assert_shown(study, 1, None)
    study.database.close()


@pytest.mark.parametrize("statement", [
    "UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'mean_loss'",
    "UPDATE trial_user_attributes SET value_json = printf('%.*c', 99999, '[') WHERE key = 'recipe'",
    "UPDATE trial_values SET value = NULL",
    "UPDATE ax_recipes SET json = '{}'",
    "UPDATE ax_recipes SET json = replace(json, '[0,1]', '[0,2]')",
    "UPDATE ax_evaluations SET outcome = x'00'",
    "UPDATE ax_evaluations SET losses = x'00'",
    "DELETE FROM ax_recipes",
])  # fmt: skip
def test_other_rows_that_were_edited(tmp_path: Path, statement: str) -> None:
    url = make(tmp_path / "studies.db")
    edit(tmp_path / "studies.db", (statement,))
    study = Study.open(url, NAME)
    with pytest.raises(AxsearchError) as refused:
        study.front()
    assert "damaged" in sentence(refused.value) or "recipe" in str(refused.value)
    study.database.close()


def test_every_command_shows_a_study_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make(tmp_path / "studies.db")
    study = Study.open(url, NAME)
    annotate(study)
    print_json(study)
    shown = json.loads(capsys.readouterr().out)
    assert [member["trial"] for member in shown["front"]] == [2, 1]
    assert shown["baseline"].pop("expected") is shown["baseline"].pop("holdout_drop") is None
    assert Measurement.model_validate(shown["baseline"]).choices == choices(0)
    print_front(study)
    study.database.close()
    explain(url, NAME, 2)
    assert "0.550 of the base's time" in capsys.readouterr().out


def test_trials_of_a_version_that_knew_fewer_approximations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make(tmp_path / "studies.db")
    for trial in (0, 2):
        older = measurement(trial)
        for layer in older["choices"].values():
            del layer["ffn_topk"]
        edit(tmp_path / "studies.db", (SET_ATTRIBUTE, json.dumps(older), "measurement", trial))
    study = Study.open(url, NAME)
    assert [m.choices for m in study.measurements] == [choices(trial) for trial in range(5)]
    study.database.close()
    explain(url, NAME, 2)
    assert "layer01" in capsys.readouterr().out
