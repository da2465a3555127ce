"""Exit codes, and the exceptions that determine them."""

EXIT_USER_ERROR = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
EXIT_PREEMPTED = 143  # 128 + SIGTERM


class UserError(Exception):
    """Raised for invalid data or configuration.

    The message states what is wrong, where, how often, and what to do.
    """


class TryAgain(Exception):
    """Raised for a transient failure of the environment (storage, network).

    A later attempt may succeed.
    """


def check(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)
