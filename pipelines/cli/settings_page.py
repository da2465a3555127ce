"""The text and the JSON schema that `macrec settings` prints."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from components.run_form import FORMS, LISTS_TOP_K, PREFIX, RECOMMENDER
from components.stages import CHECK_RUN, RECOMMEND, STAGES
from macrec.core.settings import AS_TEXT, AUTO, Parameter
from macrec.core.stage import Stage
from macrec.core.stage_command import FORCE

WIDTH: Final = 100
# The bounds of a JSON schema in words.
_BOUNDS: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
# pydantic leaves these names in the schema of a type that also has a function validator.
_STANDARD_KEYS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}
# Settings that are a field of the run form, by the names of their stage.
_FIELDS: Final = {(RECOMMEND.name, "top_k"): LISTS_TOP_K}


def list_fields() -> Iterator[str]:
    """Yield the lines about the fields of the run form, and the names of the stages."""
    yield "Fields of the run form:"
    for name, parameter in RECOMMENDER.fields.items():
        if not name.startswith(PREFIX):
            yield from _describe(name, parameter)
    yield ""
    yield "`macrec settings STAGE` lists the settings of one of these stages:"
    yield f"  {', '.join(stage.name for stage in STAGES if stage is not CHECK_RUN)}"


def list_settings(stage: Stage) -> Iterator[str]:
    """Yield the lines about the settings of a stage, the everyday ones first."""
    yield f"{stage.name}: {stage.summary}"
    declared = [*stage.parameters, *([FORCE] if stage.reusable else [])]
    everyday = [p for p in declared if p.name in stage.everyday]
    expert = [p for p in declared if p.name not in stage.everyday]
    for title, parameters in (("Everyday settings", everyday), ("Expert settings", expert)):
        if parameters:
            yield ""
            yield f"{title}:"
        for parameter in parameters:
            name = _FIELDS.get((stage.name, parameter.name), f"{stage.name}.{parameter.name}")
            yield from _describe(name, parameter)


def _describe(name: str, parameter: Parameter) -> Iterator[str]:
    facts = "required" if parameter.required else f"default {default_text(parameter)}"
    allowed = allowed_values(parameter)
    yield f"  {name}  ({facts}{f'; {allowed}' if allowed else ''})"
    text = " ".join(parameter.doc.split())
    yield from textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def default_text(parameter: Parameter) -> str:
    """Return the default as a user writes it."""
    default = parameter.default
    if default == 0 and _may_be_auto(parameter):
        return "auto"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "''"
    if isinstance(default, str):
        return repr(default) if default in ("", '"') else default
    return json.dumps(default)


def allowed_values(parameter: Parameter) -> str:
    """Return the range or the choices of a parameter in words; empty if any value is allowed."""
    declared = _type_schema(parameter)
    elements = declared.get("items", declared)
    if "enum" in elements:
        separator = ", " if "items" in declared else " | "
        return ("some of " if "items" in declared else "") + separator.join(elements["enum"])
    bounds = [f"{text} {elements[key]}" for key, text in _BOUNDS.items() if key in elements]
    if _may_be_auto(parameter):
        return " and ".join(["auto or above 0", *bounds[1:]])
    return " and ".join(bounds)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a config file; editors complete and check files with it."""
    properties: dict[str, Any] = {}
    for form in FORMS.values():
        for stage in form.stages:
            nested = {
                "description": stage.summary,
                "type": ["object", "null"],
                "properties": {},
                "additionalProperties": False,
            }
            properties.setdefault(stage.name, nested)
        for name, parameter in form.settings.items():
            stage_name, dot, setting = name.partition(".")
            known = properties[stage_name]["properties"] if dot else properties
            known[setting or name] = _schema(parameter)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of a MACRec run",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _schema(parameter: Parameter) -> dict[str, Any]:
    """Return the JSON schema of the values that a config file may contain for a parameter."""
    declared = _type_schema(parameter)
    if _may_be_auto(parameter):
        declared: dict[str, Any] = {"anyOf": [declared, {"const": "auto"}]}
    elif AS_TEXT in _marks(parameter):
        declared = {"enum": [*declared["enum"], *map(int, declared["enum"])]}
    described = {**declared, "description": " ".join(parameter.doc.split())}
    if parameter.required:
        return described
    default = parameter.default
    return {**described, "default": list(default) if isinstance(default, tuple) else default}


def _type_schema(parameter: Parameter) -> dict[str, Any]:
    """Return the JSON schema of the parameter's type."""
    declared = parameter.adapter.json_schema()
    return {_STANDARD_KEYS.get(key, key): value for key, value in declared.items()}


def _may_be_auto(parameter: Parameter) -> bool:
    return AUTO in _marks(parameter)


def _marks(parameter: Parameter) -> tuple[Any, ...]:
    return getattr(parameter.annotation, "__metadata__", ())
