"""Typed parameters of a stage: its dataclass fields, their docs, and how values are parsed."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from macrec.core.errors import UserError


class Parameter(NamedTuple):
    """One parameter of a stage: a field of its Settings or Execution, or a URI of its Inputs."""

    name: str
    kind: Any
    default: Any
    doc: str

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the allowed values of a Literal type; empty for other types."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()


def field_docs(cls: type) -> dict[str, str]:
    """Return the attribute docstrings of a dataclass by field: the string below each field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            value = following.value if isinstance(following, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docs[statement.target.id] = inspect.cleandoc(value.value)
    return docs


def fields(cls: type) -> list[Parameter]:
    """Return the fields of a dataclass with their types, defaults and docs."""
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    return [
        Parameter(f.name, _required(hints[f.name]), f.default, docs.get(f.name, ""))
        for f in dataclasses.fields(cls)
    ]


def _required(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):  # `Source | None` is a Source that may be absent
        return next(k for k in typing.get_args(kind) if k is not types.NoneType)
    return kind


def parse(parameter: Parameter, value: Any) -> Any:
    """Convert a value from the command line, a config file or KFP's JSON to the parameter's type.

    Raises:
        UserError: the value does not match the parameter's type.
    """
    kind = parameter.kind
    try:
        if typing.get_origin(kind) is tuple:
            items = value.strip("[]()").split(",") if isinstance(value, str) else value
            inner = Parameter(parameter.name, typing.get_args(kind)[0], None, "")
            return tuple(
                parse(inner, i.strip(" \"'") if isinstance(i, str) else i) for i in items if i != ""
            )
        if typing.get_origin(kind) is Literal:
            if str(value) not in typing.get_args(kind):  # a config file may have a number
                raise ValueError
            return str(value)
        if kind is bool:
            if str(value).lower() not in ("true", "false"):
                raise ValueError
            return str(value).lower() == "true"
        if kind is int:
            if float(value) != int(float(value)):
                raise ValueError
            return int(value) if isinstance(value, str) else int(float(value))
        return kind(value)
    except (ValueError, TypeError) as error:
        expected = " or ".join(parameter.choices) or getattr(kind, "__name__", str(kind))
        raise UserError(f"{parameter.name}={value!r}: expected {expected}.") from error


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """Return a Settings or Execution with the given values and defaults for all other fields."""
    return cls(**{p.name: parse(p, values[p.name]) for p in fields(cls) if p.name in values})
