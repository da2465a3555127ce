"""Reads the settings that an earlier bench found, for a bench that does not search again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from components.run_form import current_name
from macrec.core.artifact import Json
from macrec.core.errors import UserError, check
from pipelines.bench.recipes import RECIPES, searched_as


class Earlier(NamedTuple):
    """The searches of an earlier bench."""

    said: Json
    """Identity of the bench that searched: file name, and date and commit if they are known."""
    sequences: str
    """Digest of the sequences that the search used."""
    trials: int
    minutes: float
    """Time limit of the search for each model."""
    searches: dict[str, Json]
    """Searches by model, as in the file. Ablations share the search of MACRec (`searched_as`)."""


def read_earlier(path: Path, models: Iterable[str]) -> Earlier:
    """Read the searches of a bench.json.

    Args:
        path: the file, as written by `macrec bench`, or a copy of it with date and commit added.
        models: models whose settings are needed.

    Raises:
        UserError: if the file is not a bench.json or has no search for one of the models.
    """
    try:
        told = json.loads(path.read_bytes())
        systems = {name: system["search"] for name, system in told["systems"].items()}
        known = (told["sequences"], told["trials"], told["minutes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--searched {path}: no bench.json of `macrec bench` ({error}).") from None
    searches = {_searched_as(n): _renamed(n, f) for n, f in systems.items() if f and f["best"]}
    absent = [name for name in models if _searched_as(name) not in searches]
    there = ", ".join(searches) or "none of any"
    check(
        not absent,
        f"--searched {path}: no search of {', '.join(absent)}; there is {there}. Leave them out of "
        "--models, or search with --trials.",
    )
    here = {"file": path.name, **{k: told[k] for k in ("date", "commit") if k in told}}
    return Earlier(told.get("searched", here), *known, searches)


def _renamed(name: str, found: Json) -> Json:
    """Return a search of our own system with the present names of its settings."""
    if name not in RECIPES:
        return found
    settings = {current_name(n): value for n, value in found["best"]["settings"].items()}
    return {**found, "best": {**found["best"], "settings": settings}}


def _searched_as(name: str) -> str:
    return searched_as(name) if name in RECIPES else name
