"""From the options that dataclasses declare to those of the command line.

A command takes dataclasses whose fields are options (:mod:`axsearch.options`), and options of its
own. Its errors name arguments; here these are translated to options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from axsearch.errors import AxsearchError
from axsearch.options import Declared, Option, declared, gather, option_of, required
from axsearch.progress import silenced

Quiet = Annotated[bool, Option("Print nothing on stderr but errors: no progress and no notes")]
Json = Annotated[bool, Option("Print JSON")]
Trial = Annotated[int, Option("Number of a finished trial", minimum=0)]

ARGUMENT = re.compile(r"`(\w+)(?:=([^`]*))?`")
"""An argument in a sentence, with its value if it has one."""


@dataclasses.dataclass(frozen=True)
class Without:
    """The fields of a dataclass that are not options of a command, and keep their defaults."""

    names: tuple[str, ...]


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """The function that typer makes a command of: an argument for each option, and --quiet."""
    own, hints = _arguments(function)
    options, switches = _options(function), flags(function)

    @functools.wraps(function)
    def command(*, quiet: bool, **given: Any) -> None:
        values = {name: _read(options.get(name), value) for name, value in given.items()}
        for name in own:
            if (kind := _dataclass(hints[name])) is not None:
                values[name] = gather(kind, values)
        with silenced(quiet):
            try:
                function(**values)
            except AxsearchError as error:
                error.args = (in_options(str(error), switches),)
                raise

    shown = [_parameter(option) for option in options.values()]
    shown += [own[name].replace(annotation=hints[name]) for name in own if _is_foreign(hints[name])]
    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
    shown.sort(key=lambda parameter: parameter.default is not parameter.empty)
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in shown}
    return command


def flags(function: Callable[..., None]) -> dict[str, tuple[str, str]]:
    """For each argument of a command, by name, its option and the one that turns it off."""
    return {name: _flags(option) for name, option in _options(function).items()}


def in_options(sentence: str, switches: Mapping[str, tuple[str, str]]) -> str:
    """A sentence with a command's options in place of the arguments that it names.

    ```max_drop``` becomes ``--max-drop``, ```by="size"``` becomes ``--by size``, ```force=True```
    becomes ``--force``. Arguments without an option of the command stay as they are.

    Args:
        sentence: of an error.
        switches: of the command, see :func:`flags`.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in switches:
            return found[0]
        on, off = switches[name]
        if value in (None, "True"):
            return on
        return off if value == "False" else f"{on} {shlex.quote(value.strip(chr(34)))}"

    return ARGUMENT.sub(option, sentence)


def _arguments(
    function: Callable[..., None],
) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The arguments of a command, with --quiet, and their annotations."""
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False)
    hints = get_type_hints(function, include_extras=True)
    return (
        {**inspect.signature(function).parameters, "quiet": quiet},
        {**hints, "quiet": Quiet},
    )


def _dataclass(hint: Any) -> type | None:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return kind if dataclasses.is_dataclass(kind) else None  # type: ignore[return-value]


def _is_foreign(hint: Any) -> bool:
    """Whether it is typer's own, such as an argument without a flag."""
    return _dataclass(hint) is None and option_of(hint) is None


def _options(function: Callable[..., None]) -> dict[str, Declared]:
    """The options of a command by their names."""
    own, hints = _arguments(function)
    return {one.name: one for name in own for one in _options_of(name, hints[name], own[name])}


def _options_of(name: str, hint: Any, parameter: inspect.Parameter) -> Iterator[Declared]:
    """The options that one argument of a command stands for."""
    if (kind := _dataclass(hint)) is not None:
        left_out = [one for mark in get_args(hint)[1:] for one in mark.names]
        yield from (one for one in declared(kind) if one.name not in left_out)
    elif (option := option_of(hint)) is not None:
        default = parameter.default
        missing = dataclasses.MISSING if default is parameter.empty else default
        yield Declared(name, get_args(hint)[0], missing, option)


def _parameter(one: Declared) -> inspect.Parameter:
    """An option as typer takes it: several names are one text with commas between."""
    option, several = one.option, _is_several(one.type)
    switch = one.type is bool  # with typer's own name it would have an opposite
    names = [option.flag or _flag(one.name)] if option.flag or switch else []
    shown = typer.Option(
        *names,
        help=option.sentence,
        min=option.minimum,
        max=option.maximum,
        envvar=option.variable,
        metavar="<name,...>" if several else None,
    )
    default = inspect.Parameter.empty if required(one) else one.default
    if several and not required(one):
        default = ",".join(one.default) if one.default else None
    kind = str | None if several else one.type
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, shown],
    )


def _read(one: Declared | None, value: Any) -> Any:
    if one is None or not _is_several(one.type):
        return value
    return one.default if value is None else tuple(part.strip() for part in value.split(","))


def _is_several(kind: Any) -> bool:
    return any(get_origin(one) is tuple for one in (kind, *get_args(kind)))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _flags(one: Declared) -> tuple[str, str]:
    return one.option.flag or _flag(one.name), f"--no-{one.name.replace('_', '-')}"
