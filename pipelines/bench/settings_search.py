"""Searches the settings of one model in a bench and stores the trials in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError
from macrec.core.progress import log
from pipelines.bench.options import Options


def search_of(options: Options, name: str, searched: Callable[[], Path]) -> Json | None:
    """Return the search that decides a model's settings: an earlier bench's, this one's, or None.

    Args:
        options: options of the bench.
        name: name of the model.
        searched: function that returns the file of the trials, after a search if needed.
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
    """Return OUT/trials/MODEL.json; search unless the file is from the same search.

    Args:
        options: options of the bench.
        name: name of the model.
        asked: everything that the search depends on besides the options.
        candidate: function that returns the model with its search space
            (`components.baselines.search.Candidate`). It is called only for a new search.

    Raises:
        UserError: if all trials failed.
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
