"""The two errors a user sees, each one sentence that says what is wrong and what to do.

A sentence names an argument in backticks, as Python has it: `max_drop`, `force=True`, `by="size"`.
The command line writes its own option there (:mod:`axsearch.cli.options`).
"""

LONGEST = 2000
"""Characters of a message; what is longer quotes something long, and loses its middle."""


class AxsearchError(Exception):
    """An operation failed; the command line ends with exit status 1.

    Its message is one line: line breaks and control characters, which names and files may hold,
    are written as Python writes them.
    """

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(AxsearchError):
    """The input cannot be used as given; the command line ends with exit status 2."""

    exit_status = 2


def one_line(message: str) -> str:
    """The message without what would break a line or steer a terminal, shortened where huge."""
    if not message.isprintable():
        message = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in message
        )
    if len(message) > LONGEST:
        half = LONGEST // 2 - 2
        message = f"{message[:half]} … {message[-half:]}"
    return message


def cause(error: BaseException) -> str:
    """The first line of what a library said, to stand inside a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
