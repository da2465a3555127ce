"""The search of one model's settings in a bench, and the file that it leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError
from macrec.core.progress import log
from pipelines.bench.options import Options


def search_of(options: Options, name: str, searched: Callable[[], Path]) -> Json | None:
    """How the settings of a model are found: an earlier bench's search, this one's, or none.

    Args:
        options: of the bench.
        name: of the model.
        searched: makes the file of its trials, or finds it.
    """
    if options.earlier:
        return options.earlier.searches[name]
    return json.loads(searched().read_bytes()) if options.trials else None


def searched(
    options: Options,
    name: str,
    asked: Json,
    candidate: Callable[[], Any],
) -> Path:
    """OUT/trials/MODEL.json, made anew unless it is that of the same search.

    Args:
        options: of the bench.
        name: of the model.
        asked: what the search depends on, besides the options.
        candidate: the model with its space (`components.baselines.search.Candidate`); called only
            where there is something to search.

    Raises:
        UserError: all trials failed.
    """
    from components.baselines.search import best, search

    path = options.out / "trials" / f"{name}.json"
    asked = {
        "model": name,
        "trials": max(options.trials, 1),
        "minutes": options.minutes,
        "fixed": sorted(options.own[name]),
        **asked,
    }
    if path.is_file() and json.loads(path.read_bytes())["asked"] == asked:
        log.info("%s: the trials are those of %s", name, path)
        _check_one_ended(path)
        return path
    log.info("%s: searches", name)
    tried = candidate()
    found = search(tried, trials=asked["trials"], minutes=options.minutes)
    told: Json = {
        "asked": asked,
        "space": {n: list(values) for n, values in tried.space.items()},
        "trials": [trial._asdict() for trial in found],
        "best": chosen._asdict() if (chosen := best(found)) else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(told, indent=1) + "\n").encode())
    _check_one_ended(path)
    return path


def _check_one_ended(path: Path) -> None:
    told = json.loads(path.read_bytes())
    if not told["best"]:
        first = told["trials"][0]["failed"]
        raise UserError(f"{path}: all {len(told['trials'])} trials failed, the first with: {first}")
