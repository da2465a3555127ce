"""Lets several commands of the command line share a group of options.

A function reads the group: its parameters are the options, and it returns their value. A command
has one parameter for the value, annotated with `OptionGroup`.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from itertools import zip_longest
from typing import Any, NamedTuple

from typer.core import TyperCommand

OPTIONAL_VALUE = "--containers"
"""The option that may be given without a value."""


class OptionGroup(NamedTuple):
    """Marks a parameter of a command whose value comes from several options."""

    read: Callable[..., Any]
    """Function that makes the value; its parameters are the options."""


def expand(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the options of its groups as parameters, as typer expects them."""
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        read = _reader(parameter)
        own = inspect.signature(read).parameters if read else {name: parameter}
        if read:
            groups[name] = read, list(own)
        parameters += own.values()

    @wraps(command)
    def call(**values: Any) -> Any:
        for name, (read, options) in groups.items():
            values[name] = read(**{option: values.pop(option) for option in options})
        return command(**values)

    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return call


def _reader(parameter: inspect.Parameter) -> Callable[..., Any] | None:
    """Return the function that reads the group of a parameter; a group may contain groups."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    return next((expand(mark.read) for mark in marks if isinstance(mark, OptionGroup)), None)


class Command(TyperCommand):
    """A command that accepts its option `--containers` without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; an empty text becomes the value of the option without a value."""
        if any(OPTIONAL_VALUE in parameter.opts for parameter in self.params):
            args = [
                f"{arg}=" if arg == OPTIONAL_VALUE and following.startswith("-") else arg
                for arg, following in zip_longest(args, args[1:], fillvalue="-")
            ]
        return super().parse_args(ctx, args)
