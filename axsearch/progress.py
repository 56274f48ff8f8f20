"""How long work shows itself: on stderr, as a bar in a terminal and as lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET = "AXSEARCH_QUIET"
"""The environment variable that silences, which workers inherit."""

console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=bool(os.environ.get(QUIET)))


@contextmanager
def silenced(quiet: bool = True) -> Iterator[None]:
    """While open, nothing is said, here and in processes that are started here, if ``quiet``."""
    before, inherited = console.quiet, os.environ.get(QUIET)
    if quiet:
        console.quiet, os.environ[QUIET] = True, "1"
    try:
        yield
    finally:
        console.quiet = before
        if quiet and inherited is None:
            del os.environ[QUIET]


def progress_bar() -> Progress:
    """A bar with count, time spent and time left; silent where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )


@contextmanager
def steps(count: int) -> Iterator[Callable[[str], None]]:
    """A bar over a few steps; the function it yields begins the next one, under a description."""
    with progress_bar() as progress:
        bar = progress.add_task("", total=count)
        begun = 0

        def begin(what: str) -> None:
            nonlocal begun
            progress.update(bar, description=what, completed=begun)
            begun += 1

        yield begin
        progress.update(bar, completed=begun)


@contextmanager
def counted(description: str, name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over a number of steps; the function it yields takes how many are done, of how many.

    Where stderr is no terminal, a line with ``name`` is printed at each tenth.
    """
    with progress_bar() as progress:
        bar = progress.add_task(description, total=None)
        said = 0

        def told(done: int, planned: int) -> None:
            nonlocal said
            progress.update(bar, completed=done, total=planned)
            if not console.is_terminal and 10 * done // planned > said:
                said = 10 * done // planned
                console.print(f"{name}: step {done} of {planned}", style="dim")

        yield told
