"""Fields of dataclasses as options: of a function, of a command."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, field
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import axsearch
from axsearch.cli.commands import Commands
from axsearch.cli.options import Json, Without, as_command, flags, in_options
from axsearch.errors import UsageError
from axsearch.options import Option, declared, describes, gather, like
from axsearch.running.request import SearchRequest, WorkerPool
from axsearch.training.request import FinetuneRequest


@dataclass(frozen=True, kw_only=True)
class Inner:
    names: Annotated[tuple[str, ...] | None, Option("Names", omitted="all")] = None
    left: Annotated[tuple[str, ...], Option("What is left")] = ()
    kinds: Annotated[tuple[str, ...], Option("Kinds")] = ("a", "b")
    loud: Annotated[bool | None, Option("Be loud")] = None
    count: Annotated[int, Option("How many", minimum=1, flag="--how-many")] = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    where: Annotated[str, Option("Where")]
    inner: Inner = field(default_factory=Inner)
    force: Annotated[bool, Option("By force")] = False


def test_options_of_the_dataclasses_within_stand_in_their_order() -> None:
    found = {one.name: one.option.sentence for one in declared(Outer)}
    assert list(found) == ["where", "names", "left", "kinds", "loud", "count", "force"]
    assert found["names"] == "Names (if omitted: all)."
    assert found["where"] == "Where."
    assert like(Outer, "names", omitted="none").sentence == "Names (if omitted: none)."
    assert like(Outer, "count") == Option("How many", minimum=1, flag="--how-many")


def test_values_are_gathered_into_the_dataclasses_they_belong_to() -> None:
    given: dict[str, Any] = {"where": "here", "names": ["x"], "count": 5, "other": 1}
    assert gather(Outer, given) == Outer(where="here", inner=Inner(names=("x",), count=5))
    assert given == {"other": 1}
    whole = gather(Outer, {"where": "here", "inner": Inner(count=7)})
    assert whole.inner.count == 7
    with pytest.raises(TypeError, match="where"):
        gather(Outer, {"count": 5})


SEEN: list[tuple[Outer, bool]] = []


def take(outer: Annotated[Outer, Without(("loud",))], json: Json = False) -> None:
    """Take what is given."""
    if outer.force:
        raise UsageError(
            'Neither `force=True` nor `names=a,b` with `count` go with `where="there"`, '
            "`json=True` or `loud`."
        )
    SEEN.append((outer, json))


def called(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(as_command(take))
    SEEN.clear()
    return CliRunner().invoke(app, arguments)


def test_a_command_has_the_options_of_its_dataclasses() -> None:
    assert called("--where", "here").exit_code == 0
    assert [(Outer(where="here"), False)] == SEEN
    given = ("--names", "x, y", "--left", "z", "--kinds", "c", "--how-many", "9", "--json")
    assert called("--where", "here", *given).exit_code == 0
    inner = Inner(names=("x", "y"), left=("z",), kinds=("c",), count=9)
    assert [(Outer(where="here", inner=inner), True)] == SEEN
    for wrong in ((), ("--where", "here", "--how-many", "0"), ("--where", "here", "--loud")):
        assert called(*wrong).exit_code == 2
    assert called("--where", "here", "--quiet").exit_code == 0


def test_what_a_command_raises_names_its_options() -> None:
    raised = called("--where", "here", "--force").exception
    assert str(raised) == (
        "Neither --force nor --names a,b with --how-many go with --where there, --json or `loud`."
    )
    assert in_options("`loud=False` in `axsearch front`", {"loud": ("--loud", "--no-loud")}) == (
        "--no-loud in `axsearch front`"
    )
    # As a shell takes them.
    assert in_options('name `kinds="Class Index"`', {"kinds": ("--kinds", "")}) == (
        "name --kinds 'Class Index'"
    )
    assert "loud" not in flags(take)


@pytest.mark.parametrize(
    ("function", "request_", "others"),
    [
        (axsearch.search, SearchRequest, {"place": WorkerPool()}),
        (axsearch.finetune, FinetuneRequest, {}),
    ],
)
def test_a_function_takes_the_options_of_its_request(
    function: Any, request_: type, others: dict[str, Any]
) -> None:
    within = (
        {one.name for one in declared(WorkerPool)}
        if others
        else {"search_examples", "vocabulary_from"}
    )
    own = {one.name: one for one in declared(request_) if one.name not in within}
    taken = inspect.signature(function).parameters
    assert set(taken) == {*own, *others}
    for name, parameter in taken.items():
        default = parameter.default
        if name in others:
            assert default == others[name]
            continue
        needed = default is parameter.empty
        assert needed == (own[name].default is MISSING)
        assert needed or default == own[name].default
        assert f"    {name}: {own[name].option.help}" in function.__doc__


def test_every_command_says_of_each_option_what_it_is_for() -> None:
    for name, command in Commands().items():
        for option in command.params:
            assert option.help, (name, option.name)
            assert option.help.endswith("."), (name, option.name)


def test_a_description_comes_before_what_is_raised() -> None:
    @describes(Inner, {"more": "Something else."})
    def function(count: int, more: str) -> None:
        """Do it.

        Raises:
            UsageError: never.
        """

    assert function.__doc__ == (
        "Do it.\n\nArgs:\n    count: How many.\n    more: Something else.\n\n"
        "Raises:\n    UsageError: never."
    )
