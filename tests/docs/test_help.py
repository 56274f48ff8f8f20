"""Every command has help with an example that it would take, and prose names real options only."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from axsearch.cli import app
from tests.docs.pages import PAGES, prose

GROUP = typer.main.get_command(app)
COMMANDS = dict(GROUP.commands)
OPTIONS = {
    name
    for command in (GROUP, *COMMANDS.values())
    for parameter in command.get_params(typer.Context(command))
    for name in (*parameter.opts, *parameter.secondary_opts)
}
FOREIGN = {"--head", "--ntasks", "--cpus-per-task"}
"""Options of Ray and Slurm."""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_help_with_examples_that_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AXSEARCH_STORAGE", raising=False)  # an example is complete
    command = COMMANDS[name]
    with pytest.raises(typer.Exit):
        command.make_context(name, ["--help"])
    help_ = capsys.readouterr().out
    assert "Usage:" in help_
    text = (command.help or "").replace("\b", "").replace("\\\n", " ")
    after = re.split(r"Examples?:", text)
    assert len(after) == 2, "no example"
    one_line = " ".join(after[1].split()).removesuffix(".")
    examples = re.split(r"(?:^| )axsearch (?=[a-z])", one_line)
    assert not examples[0].strip()
    for example in examples[1:]:
        words = shlex.split(example)
        assert words[0] == name
        command.make_context(name, words[1:])  # raises where an option is not there or is missing


@pytest.mark.parametrize("page", PAGES)
def test_options_in_prose_are_there(page: str) -> None:
    named = {
        option
        for code in re.findall(r"`([^`]+)`", " ".join(prose(page).split()))
        if not code.startswith(("python ", "studies/"))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)
    }
    assert named <= OPTIONS | FOREIGN
