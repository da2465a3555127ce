"""The settings that an earlier bench has searched for, for a bench that does not search again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from macrec.core.artifact import Json
from macrec.core.errors import UserError, check
from pipelines.bench.recipes import RECIPES, searched_as


class Earlier(NamedTuple):
    """The searches of a bench."""

    said: Json
    """Which bench it was: file, and date and commit where it says them."""
    sequences: str
    """Digest of those it searched on."""
    trials: int
    minutes: float
    """Given to each model."""
    searches: dict[str, Json]
    """By model, those of our own systems by `searched_as`; as in the file."""


def read_earlier(path: Path, models: Iterable[str]) -> Earlier:
    """Reads a bench.json.

    Args:
        path: of the file, as `macrec bench` has left it or as it was kept since.
        models: those whose settings are needed.

    Raises:
        UserError: the file is none of a bench, or has no search of one of the models.
    """
    try:
        told = json.loads(path.read_bytes())
        systems = {name: system["search"] for name, system in told["systems"].items()}
        known = (told["sequences"], told["trials"], told["minutes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--searched {path}: no bench.json of `macrec bench` ({error}).") from None
    searches = {_searched_as(n): found for n, found in systems.items() if found and found["best"]}
    absent = [name for name in models if _searched_as(name) not in searches]
    there = ", ".join(searches) or "none of any"
    check(
        not absent,
        f"--searched {path}: no search of {', '.join(absent)}; there is {there}. Leave them out of "
        "--models, or search with --trials.",
    )
    here = {"file": path.name, **{k: told[k] for k in ("date", "commit") if k in told}}
    return Earlier(told.get("searched", here), *known, searches)


def _searched_as(name: str) -> str:
    return searched_as(name) if name in RECIPES else name
