"""Write docs/reference from the code: python docs/make_reference.py."""

import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import plotly.graph_objects as go
import pydantic
import typer
from typer.cli import get_docs_for_click

import axsearch
from axsearch import discovery
from axsearch.cli import app
from axsearch.reporting import figures

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/make_reference.py; change the code and run it again. -->\n\n"
WIDTH = 88
SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Example")
ROLE = re.compile(r":\w+:`~?([^`]+)`")
SKIP = re.compile(r"(  |\n\.\.\. )# doctest: \+SKIP")
ENTRY = re.compile(r"(\*{0,2}\w+): (.*)", re.DOTALL)


class Words(str):
    """An annotation as it stands in the source: inspect shows the repr of what it is given."""

    def __repr__(self) -> str:
        return str(self)


def command_line() -> str:
    """What typer's own generator says of each command."""
    command = typer.main.get_command(app)
    written = get_docs_for_click(obj=command, ctx=typer.Context(command), name="axsearch")
    return f"{NOTE}{written.strip()}\n"


def python() -> str:
    """The public names, then the figures."""
    parts = [f"{NOTE}# Python", "The names that `import axsearch` has."]
    for name in axsearch.__all__:
        parts += described(getattr(axsearch, name), name, level=2)
    parts += ["## Figures", markdown(figures.__doc__)]
    parts.append(
        "`axsearch.study_figures` draws those of a study; the functions below draw the same from "
        "plain data."
    )
    for module in discovery.modules(figures):
        for name, drawing in drawings(module):
            parts += described(drawing, f"{module.__name__}.{name}", level=3)
    data = importlib.import_module("axsearch.reporting.figures.data")
    for name, record in own(data):
        if dataclasses.is_dataclass(record):
            parts += described(record, f"{data.__name__}.{name}", level=3)
    return "\n\n".join(parts) + "\n"


def drawings(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions of a module that draw one figure, if it is a figure of every study."""
    if hasattr(module, "of_study"):
        for name, member in own(module):
            if inspect.isfunction(member) and get_type_hints(member)["return"] is go.Figure:
                yield name, member


def own(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public classes and functions that a module defines, in its order."""
    for name, member in vars(module).items():
        if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__:
            yield name, member


def described(member: Any, name: str, level: int) -> Iterator[str]:
    """Heading, signature and docstring; of a class its public methods and properties too."""
    yield f"{'#' * level} {name}"
    if not inspect.isclass(member):
        yield code(signature(name.rpartition(".")[2], member))
        yield markdown(inspect.getdoc(member))
        return
    short = name.rpartition(".")[2]
    if "__init__" in vars(member) and not issubclass(member, pydantic.BaseModel):
        yield code(f"class {signature(short, member)}")
    yield markdown(inspect.getdoc(member))
    for key, value in vars(member).items():
        found = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if key.startswith("_") or not inspect.getdoc(found):
            continue
        if isinstance(found, property) or type(found).__name__ == "cached_property":
            yield f"`{short}.{key}`: {markdown(inspect.getdoc(found))}"
        elif inspect.isfunction(found):
            yield code(signature(f"{short}.{key}", getattr(member, key), bound=value is found))
            yield markdown(inspect.getdoc(found))


def signature(name: str, member: Any, *, bound: bool = False) -> str:
    """A call as it is written, a line for each argument where it is long."""
    found = inspect.signature(member)
    arguments = [plain(p) for p in found.parameters.values()][bound:]
    returned = found.return_annotation
    if returned is not found.empty and not inspect.isclass(member):
        found = found.replace(parameters=arguments, return_annotation=words(returned))
    else:
        found = found.replace(parameters=arguments, return_annotation=found.empty)
    if len(line := f"{name}{found}") <= WIDTH:
        return line
    several = str(found.replace(return_annotation=found.empty))[1:-1]
    shown = [str(p) for p in found.parameters.values()]
    if "*, " in several:  # the star is no parameter of its own
        first = next(i for i, p in enumerate(found.parameters.values()) if p.kind == p.KEYWORD_ONLY)
        shown.insert(first, "*")
    inner = "".join(f"    {one},\n" for one in shown)
    back = "" if found.return_annotation is found.empty else f" -> {found.return_annotation!r}"
    return f"{name}(\n{inner}){back}"


def plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter without addresses, and with its annotation as in the source."""
    if parameter.annotation is not parameter.empty:
        parameter = parameter.replace(annotation=words(parameter.annotation))
    if dataclasses.is_dataclass(parameter.default):
        parameter = parameter.replace(
            default=Words(f"{type(parameter.default).__name__}()")  # of which all is the default
        )
    elif "factory" in repr(parameter.default):
        parameter = parameter.replace(default=Words("..."))
    return parameter


def words(annotation: Any) -> Words:
    """An annotation as in the source."""
    return Words(
        annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    )


def code(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text}\n```"


def markdown(docstring: str | None) -> str:
    """A docstring of this project as Markdown: its roles, its sections, its examples."""
    text = ROLE.sub(r"`\1`", inspect.cleandoc(docstring or "")).replace("``", "`")
    parts: list[str] = []
    for paragraph in re.split(r"\n\n+(?=\S)", text):
        head, _, rest = paragraph.partition("\n")
        title = head.removesuffix(":")
        if not head.endswith(":") or title not in SECTIONS:
            parts.append(" ".join(paragraph.split()))
        elif title == "Example":
            parts.append(code(SKIP.sub("", textwrap.dedent(rest))))
        else:
            parts.append(f"{title}:\n\n" + "\n".join(entries(textwrap.dedent(rest))))
    return "\n\n".join(parts)


def entries(text: str) -> Iterator[str]:
    """The entries of a section, each as an item of a list."""
    for entry in re.split(r"\n(?=\S)", text):
        line = " ".join(entry.split())
        found = ENTRY.fullmatch(line)
        yield f"- `{found[1]}`: {found[2]}" if found else f"- {line}"


def pages() -> dict[Path, str]:
    """What each page of the reference should be."""
    return {FOLDER / "command-line.md": command_line(), FOLDER / "python.md": python()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)
