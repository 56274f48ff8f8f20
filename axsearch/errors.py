"""The two errors a user sees, each one sentence that says what is wrong and what to do."""


class AxsearchError(Exception):
    """Something failed while working; the command line ends with exit status 1."""

    exit_status = 1


class UsageError(AxsearchError):
    """The input cannot be used as given; the command line ends with exit status 2."""

    exit_status = 2


def cause(error: BaseException) -> str:
    """The first line of what a library said, to stand inside a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
