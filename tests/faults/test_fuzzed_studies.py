"""Specifications of studies as anything may have edited them: read as they stand, or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axsearch.errors import UsageError
from axsearch.study.spec import StoredSettings
from axsearch.study.study import Study
from tests.faults.checks import Check, list_of, map_of, number, optional, positive, text, whole
from tests.faults.sentences import fuzz, sentence
from tests.faults.studies import NAME, SET_SETTINGS, SET_SPEC, SETTINGS, SPEC, VALUES, edit, make
from tests.mutations import KEYS, STRANGE, changed, doubled, parsed, spliced


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("studies") / "studies.db"
    make(file)
    return file


def opened(path: Path) -> Study | None:
    """The study, None where it is refused."""
    try:
        return Study.open(f"sqlite:///{path}", NAME)
    except UsageError as error:
        message = sentence(error)
    assert f"Study {NAME!r} in this database is damaged" in message
    return None


def scenario(value: Any) -> bool:
    fields = {
        "batch_size": whole(1), "sequence_length": optional(whole(1)),
        "threads": optional(whole(1)), "device": text,
    }  # fmt: skip
    ours, older = ("runtime", "precision"), ("dtype",)
    return isinstance(value, dict) and any(
        set(value) == {*fields, *more}
        and all(fields.get(name, text)(own) for name, own in value.items())
        for more in (ours, older)
    )


def of_this_version(scenario: dict[str, Any]) -> dict[str, Any]:
    """The same, if it was written before there were runtimes."""
    if "dtype" not in scenario:
        return scenario
    left = {name: value for name, value in scenario.items() if name != "dtype"}
    return {**left, "runtime": "torch", "precision": scenario["dtype"]}


def objectives(value: Any) -> bool:
    known = ("accuracy", "latency", "size")
    return (
        list_of(text)(value)
        and "accuracy" in value
        and sorted(value) == sorted({*value} & {*known})
    )


FIELDS: dict[str, Check] = {
    "model": text, "data": text, "task": optional(text), "metric": text,
    "text_columns": optional(list_of(text)), "label_column": optional(text),
    "search_examples": optional(whole(1)), "objectives": objectives,
    "scenario": optional(scenario), "max_drop": optional(number),
    "max_latency_ratio": optional(positive), "max_size_ratio": optional(positive),
    "device": text, "machine": text, "seed": whole(0), "model_fingerprint": text,
    "splits": lambda v: map_of(text)(v) and set(v) == {"calibration", "search", "holdout"},
    "levels": map_of(list_of(lambda v: v is None or type(v) is int)),
    "compensation": lambda v: v in ("none", "bias", "least_squares", "sequential"),
    "dtype": lambda v: v in ("float32", "bfloat16"),
    "space_fingerprint": text, "weights": text, "workload": optional(text),
    "latency_tables": whole(1), "labels": optional(list_of(text)), "tokenizer": optional(text),
    "encoding": optional(text), "reading": whole(1), "max_length": whole(1),
    "vocabulary_from": optional(text), "portable": lambda v: type(v) is bool,
    "file_dtype": lambda v: v in ("float32", "float16", "bfloat16"),
    "polished": lambda v: text(v) and re.fullmatch("([0-9a-f]{64})?", v) is not None,
}  # fmt: skip
DEFAULTS = {
    "max_size_ratio": None, "compensation": "none", "dtype": "float32", "space_fingerprint": "",
    "weights": "", "workload": None, "latency_tables": 1, "labels": None, "tokenizer": None,
    "encoding": None, "reading": 1, "file_dtype": "float32", "max_length": 512, "polished": "",
    "vocabulary_from": None, "portable": False,
}  # fmt: skip


def meaning(data: Any) -> dict[str, Any] | None:
    """What a specification says; None where it is none."""
    if not isinstance(data, dict) or not set(data) <= set(FIELDS) <= {*data, *DEFAULTS}:
        return None
    if not all(FIELDS[name](value) for name, value in data.items()):
        return None
    if data["scenario"] is None and "latency" in data["objectives"]:
        return None
    return {**DEFAULTS, **data, "scenario": data["scenario"] and of_this_version(data["scenario"])}


def front(spec: dict[str, Any]) -> list[int]:
    """The trials of the front, by looking at every pair."""
    signs = {"accuracy": -1, "latency": 1, "size": 1}
    places = [list(signs).index(name) for name in spec["objectives"]]
    losses = [[value * sign for value, sign in zip(v, signs.values(), strict=True)] for v in VALUES]
    allowed = [
        trial
        for trial, (accuracy, latency, size) in enumerate(VALUES)
        if (spec["max_drop"] is None or accuracy >= VALUES[0][0] - spec["max_drop"] - 1e-12)
        and (spec["max_latency_ratio"] is None or latency <= spec["max_latency_ratio"] + 1e-12)
        and (spec["max_size_ratio"] is None or size <= spec["max_size_ratio"] + 1e-12)
    ]

    def dominated(trial: int) -> bool:
        return any(
            all(losses[other][p] <= losses[trial][p] for p in places)
            and any(losses[other][p] < losses[trial][p] for p in places)
            for other in allowed
        )

    return [trial for trial in allowed if not dominated(trial)]


LIKELY = st.sampled_from(
    [
        "f1", "accuracy", "bfloat16", "bias", "none", 0.05, 0.2, 1, 7, ["accuracy"], ["size"],
        ["accuracy", "size"], ["latency", "accuracy", "size"], ["accuracy"] * 2, {}, None, True,
    ]
)  # fmt: skip
OLDER: dict[str, Any] = {
    **SPEC,
    "scenario": {
        "batch_size": 4, "sequence_length": None, "threads": 1, "device": "cpu", "dtype": "float32",
    },
}  # fmt: skip
SPECS = st.sampled_from([SPEC, OLDER])
NAMES = KEYS | st.sampled_from(sorted(FIELDS))


@fuzz(160)
@given(
    st.one_of(
        changed(SPECS, LIKELY, NAMES, most=1).map(json.dumps),
        changed(SPECS, STRANGE | LIKELY, NAMES).map(json.dumps),
        doubled(SPECS),
        spliced(SPECS.map(json.dumps)),
        STRANGE.map(json.dumps),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    )
)
def test_specification(path: Path, written: str) -> None:
    edit(path, (SET_SPEC, written))
    expected = meaning(parsed(written))
    study = opened(path)
    assert (study is None) == (expected is None)
    if study is None or expected is None:
        return
    assert study.spec.model_dump(mode="json") == expected
    if expected["objectives"] == SPEC["objectives"]:
        assert sorted(m.trial or 0 for m in study.front()) == front(expected)
    else:
        with pytest.raises(UsageError, match="not the values that Optuna was told") as refused:
            study.front()
        sentence(refused.value)
    study.database.close()


@fuzz(120)
@given(
    st.one_of(
        changed(st.just(SETTINGS), STRANGE | LIKELY, KEYS | st.sampled_from(sorted(SETTINGS))).map(
            json.dumps
        ),
        doubled(st.just(SETTINGS)),
        spliced(st.just(SETTINGS).map(json.dumps)),
        STRANGE.map(json.dumps),
    )
)
def test_settings(path: Path, written: str) -> None:
    edit(path, (SET_SPEC, json.dumps(SPEC)), (SET_SETTINGS, written))
    study = Study.open(f"sqlite:///{path}", NAME)
    try:
        wanted, settings = study.asked
    except UsageError as refused:
        sentence(refused)
        assert parsed(written) != SETTINGS
    else:
        assert wanted == 7
        assert StoredSettings.of(settings).model_dump(mode="json") == parsed(written)
    finally:
        study.database.close()
