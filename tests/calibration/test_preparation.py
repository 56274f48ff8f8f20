from __future__ import annotations

import pytest

from axsearch.calibration.block_timing import SECONDS
from axsearch.calibration.preparation import SECONDS_VARIABLE, inexact, table_seconds
from axsearch.errors import UsageError
from axsearch.space.latency_table import LatencyTable
from axsearch.store.calibration_keys import latency_kind


def test_the_seconds_of_a_latency_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECONDS_VARIABLE)
    assert table_seconds() == SECONDS
    for given, seconds in (("0", 0), ("2.5", 2.5)):
        monkeypatch.setenv(SECONDS_VARIABLE, given)
        assert table_seconds() == seconds
    for wrong in ("soon", "-1", "nan", ""):
        monkeypatch.setenv(SECONDS_VARIABLE, wrong)
        with pytest.raises(UsageError, match=SECONDS_VARIABLE):
            table_seconds()


def test_a_table_with_large_errors_is_said_with_the_remedy() -> None:
    table = LatencyTable(0.1, {}, error=0.04, error_of_one_size=0.123)
    said = inexact(table)
    assert "by 4% on random models and by 12% on models with one size" in said
    assert f"{SECONDS_VARIABLE}={2 * SECONDS:.0f}" in said


def test_a_table_of_version_0_1_is_not_taken_for_a_new_study() -> None:
    levels = {"layer00.heads": [12, 6, 0]}
    # As version 0.1 computed it: studies that began with it find it.
    assert latency_kind("here", levels, 1) == "latency f58b27998af77a2a"
    assert latency_kind("here", levels) != latency_kind("here", levels, 1)
