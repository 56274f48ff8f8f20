"""The command line, one file a command, registered by itself.

A module here with a function of its own name is a command; its docstring is the help. Data goes
to stdout, everything else to stderr; exit status 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import metadata

import typer

from axsearch.cli.commands import Group
from axsearch.errors import AxsearchError, one_line

INTERRUPTED = 130  # how typer ends on Ctrl-C

app = typer.Typer(
    name="axsearch",
    cls=Group,
    help="Search the approximations of a fine-tuned transformer; export a smaller, faster model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(metadata.version("axsearch"))
        raise typer.Exit


@app.callback()
def _callback(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run a command; an error is one sentence on stderr, never a traceback."""
    # Importing torch and transformers makes a million objects that stay; Python looks through them
    # for garbage every 700. Old garbage is still found: the other thresholds are Python's.
    gc.set_threshold(10_000)
    # Loading and tokenising print nothing that a user needs.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except AxsearchError as error:
        print(f"axsearch: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        print("axsearch: stopped.", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        from axsearch.store.outages import database_error, is_of_database
        from axsearch.store.urls import without_secrets

        if is_of_database(error):
            print(f"axsearch: {database_error(error)}", file=sys.stderr)
            raise SystemExit(1) from None
        if os.environ.get("AXSEARCH_DEBUG"):
            raise
        said = one_line(without_secrets(str(error)))
        print(
            f"axsearch: unexpected error ({type(error).__name__}: {said}); AXSEARCH_DEBUG=1 shows "
            "where.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
