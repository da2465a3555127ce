"""`macrec settings`: lists settings with their defaults and ranges, or writes their JSON schema."""

import textwrap
from collections.abc import Iterator
from typing import Any

from components.run_form import FORMS, PREFIX, RECOMMENDER
from components.stages import STAGES
from macrec.core.settings import AUTO, Parameter
from macrec.core.stage import Stage

WIDTH = 100
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def list_fields() -> Iterator[str]:
    """Yield the lines about the fields of the run form, and the names of the stages."""
    yield "Fields of the run form (flags of `macrec run` and `macrec submit`, `--set NAME=VALUE`):"
    for name, parameter in RECOMMENDER.fields.items():
        if not name.startswith(PREFIX):
            yield from _describe(name, parameter)
    yield ""
    yield "Settings of each stage: `macrec settings STAGE`, with one of these stages:"
    yield f"  {', '.join(stage.name for stage in STAGES if stage.parameters)}"


def list_settings(stage: Stage) -> Iterator[str]:
    """Yield the lines about the settings of a stage, the everyday ones first."""
    everyday = [p for p in stage.parameters if p.name in stage.everyday]
    expert = [p for p in stage.parameters if p.name not in stage.everyday]
    yield f"{stage.name}: {stage.summary}"
    for title, parameters in (("Everyday settings", everyday), ("Expert settings", expert)):
        if parameters:
            yield ""
            yield f"{title}:"
        for parameter in parameters:
            yield from _describe(f"{stage.name}.{parameter.name}", parameter)
    if not stage.parameters:
        yield "It has no settings."


def schema() -> dict[str, Any]:
    """Return the JSON schema of a config file; editors complete and check files with it."""
    plain = {n: _schema(p) for n, p in RECOMMENDER.fields.items() if not n.startswith(PREFIX)}
    stages = {stage.name: stage for form in FORMS.values() for stage in form.stages}
    nested = {
        name: {
            "description": stage.summary,
            "type": ["object", "null"],
            "properties": {p.name: _schema(p) for p in stage.parameters},
            "additionalProperties": False,
        }
        for name, stage in stages.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of a MACRec run",
        "type": "object",
        "properties": plain | nested,
        "additionalProperties": False,
    }


def allowed_values(parameter: Parameter) -> str:
    """Return the range or the choices of a parameter as text; empty if anything is allowed."""
    if parameter.choices:
        return " | ".join(parameter.choices)
    declared = _schema(parameter)
    declared = declared.get("items", declared)
    if "enum" in declared:
        return "some of " + ", ".join(declared["enum"])
    bounds = [text.format(declared[key]) for key, text in _BOUNDS.items() if key in declared]
    return " and ".join(bounds)


def default_text(parameter: Parameter) -> str:
    """Return the default as a user would write it."""
    if parameter.required:
        return "required"
    if parameter.default == 0 and _is_auto(parameter):
        return "auto"
    if isinstance(parameter.default, tuple):
        return ",".join(map(str, parameter.default)) or '""'
    if isinstance(parameter.default, bool):
        return str(parameter.default).lower()
    return str(parameter.default) if parameter.default != "" else '""'


def _is_auto(parameter: Parameter) -> bool:
    return AUTO in getattr(parameter.annotation, "__metadata__", ())


def _describe(name: str, parameter: Parameter) -> Iterator[str]:
    allowed = allowed_values(parameter)
    facts = f"default {default_text(parameter)}" if not parameter.required else "required"
    yield f"  {name}  ({facts}{'; ' + allowed if allowed else ''})"
    text = " ".join(parameter.doc.split())
    yield from textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _schema(parameter: Parameter) -> dict[str, Any]:
    declared: dict[str, Any] = dict(parameter.adapter.json_schema())
    if _is_auto(parameter):
        declared = {"anyOf": [declared, {"const": "auto"}]}
    declared["description"] = " ".join(parameter.doc.split())
    if not parameter.required:
        default = parameter.default
        declared["default"] = list(default) if isinstance(default, tuple) else default
    return declared
