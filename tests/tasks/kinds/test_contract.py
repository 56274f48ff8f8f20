"""Every kind of task there is keeps what kinds promise, by being there."""

from __future__ import annotations

from typing import Any

import pytest

from axsearch.tasks.kinds import TaskKind, task_kinds
from axsearch.testing.kinds import TaskKindContract
from axsearch.testing.samples import KINDS


class TestEveryKind(TaskKindContract):
    """Those of axsearch."""

    @pytest.fixture(scope="class", params=KINDS)
    @classmethod
    def kind(cls, request: pytest.FixtureRequest) -> TaskKind[Any, Any]:
        found: TaskKind[Any, Any] = task_kinds()[request.param]
        return found
