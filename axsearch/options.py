"""Options: fields of dataclasses that say of themselves what they are for.

A field is written once, as ``Annotated[type, Option("help")] = default``. The command line makes
its options of the fields, the Python API its keywords and their description. A dataclass may be
made of others: its options are those of all of them, so no name may occur twice.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """The description of a field, the same wherever a user may set it.

    Attributes:
        help: a sentence without its full stop.
        omitted: the behaviour if the field is not set, where the default does not show it.
        flag: the command line's name for it; ``--`` and the field's name if None.
        minimum: the smallest number that the command line takes, as the next one the largest.
        maximum: see above.
        variable: the environment variable that the command line takes it from.
    """

    help: str
    omitted: str | None = None
    flag: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    variable: str | None = None

    @property
    def sentence(self) -> str:
        """The help with what holds where the field is not given."""
        return f"{self.help}{'' if self.omitted is None else f' (if omitted: {self.omitted})'}."


@dataclass(frozen=True)
class Declared:
    """A field of a dataclass, or of one that it is made of; ``default`` may be ``MISSING``."""

    name: str
    type: Any
    default: Any
    option: Option


def declared(kind: type) -> Iterator[Declared]:
    """The options of a dataclass and of the dataclasses that it is made of, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from declared(hint)  # type: ignore[arg-type]
        elif (option := option_of(hint)) is not None:
            yield Declared(field.name, get_args(hint)[0], field.default, option)


def option_of(hint: Any) -> Option | None:
    """The option that an annotation carries; None where it carries none."""
    found = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((one for one in found if isinstance(one, Option)), None)


def like(kind: type, name: str, omitted: str | None = None) -> Option:
    """The option of a field, for a place where something else holds if it is not given."""
    found = next(one.option for one in declared(kind) if one.name == name)
    return replace(found, omitted=omitted or found.omitted)


def gather(kind: type[T], given: dict[str, Any]) -> T:
    """A dataclass, and those that it is made of, from values by the names of their options.

    Takes what it uses out of ``given``. A dataclass within may also be given as a whole, by the
    name of its field. Lists become tuples where the field is one. Raises TypeError where a field
    without a default is missing.
    """
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if field.name in given:
            value = given.pop(field.name)
            found[field.name] = tuple(value) if isinstance(value, list) else value
        elif dataclasses.is_dataclass(hint):
            found[field.name] = gather(hint, given)  # type: ignore[arg-type]
    return kind(**found)


def describes(kind: type, others: Mapping[str, str]) -> Callable[[Function], Function]:
    """Put the options that a function takes as keywords into its docstring, as its arguments.

    Args:
        kind: the dataclass with the options.
        others: what to say of the function's other arguments, by their names.
    """

    def describe(function: Function) -> Function:
        said = {one.name: one.option.sentence for one in declared(kind)} | dict(others)
        entries = (f"{name}: {said[name]}" for name in inspect.signature(function).parameters)
        section = "Args:\n" + textwrap.indent("\n".join(entries), "    ")
        text = inspect.cleandoc(function.__doc__ or "")
        before, heading, after = text.partition("Raises:")
        function.__doc__ = f"{before.rstrip()}\n\n{section}\n\n{heading}{after}".rstrip()
        return function

    return describe


def required(one: Declared) -> bool:
    """Whether an option must be given."""
    return one.default is MISSING
