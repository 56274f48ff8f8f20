"""The two errors a user sees, each one sentence that says what is wrong and what to do."""


class AxsearchError(Exception):
    """Something failed while working; the command line ends with exit status 1."""

    exit_status = 1


class UsageError(AxsearchError):
    """The input cannot be used as given; the command line ends with exit status 2."""

    exit_status = 2
