"""Errors that have an exit code of their own."""

EXIT_USER_ERROR = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
EXIT_PREEMPTED = 143  # 128 + SIGTERM


class UserError(Exception):
    """Bad data or bad configuration. The message says what, where, how many and what to do."""


class TryAgain(Exception):
    """A fault of the surroundings (storage, network) that a later attempt may not meet."""


def check(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)
