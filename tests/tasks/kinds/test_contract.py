"""Every kind of task there is keeps what kinds promise, by being there."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from axsearch.cli import app
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

    @pytest.mark.parametrize("command", ["finetune", "search"])
    def test_the_help_of_commands_names_it(self, kind: TaskKind[Any, Any], command: str) -> None:
        text = CliRunner().invoke(app, [command, "--help"], terminal_width=500).output
        text = " ".join(text.replace("│", " ").split())
        assert kind.name in text
        assert all(metric in text for metric in kind.metrics)
