"""Reads the settings that the search of an earlier bench chose, so that a bench need not search."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from components.run_form import RECOMMENDER, current_name
from macrec.core.artifact import Json
from macrec.core.errors import UserError, check
from pipelines.bench.recipes import RECIPES, searched_as


class EarlierBench(NamedTuple):
    """The searches of an earlier bench."""

    origin: Json
    """The bench that searched: its file name, and its date and commit if the file has them."""
    sequences: str
    """Digest of the sequences that the search used."""
    trials: int
    minutes: float
    """Time limit of the search for each model."""
    searches: dict[str, Json]
    """Searches by model, as in the file. Ablations share the search of MACRec (`searched_as`)."""


def read_earlier_bench(path: Path, models: Iterable[str]) -> EarlierBench:
    """Read the searches of a bench.json.

    Args:
        path: the file, as written by `macrec bench`, or a copy of it with date and commit added.
        models: models whose settings are needed.

    Raises:
        UserError: the file is not a bench.json, has no search for one of the models, or its search
            chose settings that do not exist any more.
    """
    try:
        content = json.loads(path.read_bytes())
        systems = {name: system["search"] for name, system in content["systems"].items()}
        sequences, trials, minutes = (content[key] for key in ("sequences", "trials", "minutes"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--searched {path}: no bench.json of `macrec bench` ({error}).") from None
    searches = {_search_name(n): search for n, search in systems.items() if search}
    searches = {n: search for n, search in searches.items() if search["best"]}
    names = list(dict.fromkeys(_search_name(name) for name in models))
    absent = [name for name in names if name not in searches]
    check(
        not absent,
        f"--searched {path}: the file has no search for {', '.join(absent)}. It has searches for "
        f"{', '.join(searches) or 'no model'}. Leave the others out of --models, or search with "
        "--trials.",
    )
    needed = {name: _with_current_names(path, name, searches[name]) for name in names}
    origin = {"file": path.name, **{k: content[k] for k in ("date", "commit") if k in content}}
    return EarlierBench(content.get("searched", origin), sequences, trials, minutes, needed)


def _with_current_names(path: Path, name: str, search: Json) -> Json:
    """Return a search with the present names of the settings; earlier versions had others."""
    if name not in RECIPES:
        return search
    settings = {current_name(n): value for n, value in search["best"]["settings"].items()}
    removed = [setting for setting in settings if setting not in RECOMMENDER.settings]
    check(
        not removed,
        f"--searched {path}: the search for {name} chose {', '.join(removed)}, which this version "
        "does not have. Search again with --trials.",
    )
    return {**search, "best": {**search["best"], "settings": settings}}


def _search_name(name: str) -> str:
    return searched_as(name) if name in RECIPES else name
