from __future__ import annotations

import pytest

from axsearch.calibration.block_timing import SECONDS
from axsearch.calibration.preparation import SECONDS_VARIABLE, table_seconds
from axsearch.errors import UsageError


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
