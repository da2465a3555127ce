"""Typed settings of a stage: declaration, documentation, and conversion of the user's values.

Settings and Execution of a stage are pydantic dataclasses, made by `settings_class`. Their field
types carry the allowed ranges. Values may come from the command line (text), from a config file or
from KFP's JSON (every number is a float); all are converted in the same place.
"""

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, dataclass_transform

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from macrec.core.errors import UserError

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
Class = TypeVar("Class")


def _split(value: Any) -> Any:
    """Split a text such as "1,2" or "[1, 2]" at its commas."""
    if not isinstance(value, str):
        return value
    parts = (part.strip(" \"'") for part in value.strip(" [](){}").split(","))
    return tuple(part for part in parts if part)


def _auto_as_zero(value: Any) -> Any:
    return 0 if value == "auto" else value


COMMA_SEPARATED = BeforeValidator(_split)
"""Marks a tuple that may be given as comma-separated text."""
AUTO = BeforeValidator(_auto_as_zero)
AutoInt = Annotated[int, Field(ge=0), AUTO]
"""A count that is chosen from the data if it is 0 or "auto"."""
AutoFloat = Annotated[float, Field(ge=0), AUTO]
"""A positive number that is chosen from the data if it is 0 or "auto"."""
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
AS_TEXT = BeforeValidator(str)
"""Marks a choice among texts that may be given as a number."""


class SettingsError(UserError):
    """Raised for values that a class of settings rejects.

    Attributes:
        problems: field name and description of each problem.
    """

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(text for _, text in self.problems))


class Parameter(NamedTuple):
    """One parameter of a stage or of the run form."""

    name: str
    kind: Any
    """The type, without constraints."""
    default: Any
    """The default; `dataclasses.MISSING` if the parameter is required."""
    doc: str
    annotation: Any = None
    """The type with its constraints; None stands for `kind`."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the allowed values of a Literal type; empty for other types."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def required(self) -> bool:
        """Return whether the parameter has no default."""
        return self.default is dataclasses.MISSING

    @property
    def adapter(self) -> "TypeAdapter[Any]":
        """Return the pydantic adapter that validates and describes a value."""
        return _adapter(self.annotation if self.annotation is not None else self.kind)


@cache
def _adapter(annotation: Any) -> "TypeAdapter[Any]":
    return TypeAdapter(annotation, config=_CONFIG)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings_class(cls: type[Class]) -> type[Class]:
    """Turn a class into a frozen pydantic dataclass with keyword-only fields.

    Its constructor raises `SettingsError` if a value has a wrong type or is out of range.
    """
    made = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
    validate = made.__init__

    def construct(self: Any, **values: Any) -> None:
        try:
            validate(self, **values)
        except ValidationError as error:
            raise SettingsError(_problems(error)) from None

    made.__init__ = construct  # type: ignore[method-assign]
    return typing.cast("type[Class]", made)


def _problems(error: ValidationError, name: str = "") -> list[tuple[str, str]]:
    """Return the field name and the description of every problem that pydantic found."""
    problems = list[tuple[str, str]]()
    for found in error.errors(include_url=False):
        field = name or str(found["loc"][0])
        expected = found["msg"].removeprefix("Input ")
        problems.append((field, f"{field}={found['input']!r}: {expected}"))
    return problems


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the attribute docstrings of a dataclass by field: the string below each field."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                value = following.value if isinstance(following, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    docs[statement.target.id] = inspect.cleandoc(value.value)
    return docs


def fields(cls: type) -> list[Parameter]:
    """Return the fields of a dataclass with their types, defaults and docs."""
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    exact = typing.get_type_hints(cls, include_extras=True)
    return [
        Parameter(
            f.name, _without_none(hints[f.name]), _default(f), docs.get(f.name, ""), exact[f.name]
        )
        for f in dataclasses.fields(cls)
    ]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):  # `Source | None` is a Source that may be absent
        return next(k for k in typing.get_args(kind) if k is not types.NoneType)
    return kind


def parse(parameter: Parameter, value: Any) -> Any:
    """Convert a value from the command line, a config file or KFP's JSON to the parameter's type.

    Raises:
        SettingsError: the value has a wrong type or is out of range.
    """
    try:
        return parameter.adapter.validate_python(value)
    except ValidationError as error:
        raise SettingsError(_problems(error, parameter.name)) from None


def build(cls: type[Class], values: Mapping[str, Any]) -> Class:
    """Return an instance of a class of settings; names that it does not have are ignored.

    Raises:
        SettingsError: a value has a wrong type or is out of range.
    """
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})  # type: ignore[arg-type]


def nearest(name: str, names: Collection[str], otherwise: str = "") -> str:
    """Return a hint at the known name that is most similar, or another hint if none is similar."""
    close = difflib.get_close_matches(name, names, 1)
    return f" Did you mean {close[0]}?" if close else otherwise
