"""How commands print to stdout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 140


def stdout() -> Console:
    """Colours are off where stdout is no terminal or NO_COLOR is set."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def say(console: Console, *sentences: str) -> None:
    """Each on a line of its own, however wide the terminal is: it can be copied."""
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)


def numbers(*columns: str, title: str | None = None) -> Table:
    """A table whose columns are numbers."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def ratio(value: float | None, *, measured: bool = True) -> str:
    """A ratio to the base, with ~ where it is predicted."""
    return "" if value is None else f"{'' if measured else '~'}{value:.3f}"
