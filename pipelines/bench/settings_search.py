"""Searches the settings of one model in a bench and stores the trials in a file."""

import json
from collections.abc import Callable
from pathlib import Path

from components.baselines import search
from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError
from macrec.core.progress import log
from pipelines.bench.options import Options


def find_search(options: Options, name: str, run_search: Callable[[], Path]) -> Json | None:
    """Return the search that decides a model's settings: an earlier bench's, this one's, or None.

    Args:
        options: options of the bench.
        name: name of the model.
        run_search: function that returns the file of the trials, after a search if needed.
    """
    if options.earlier:
        return options.earlier.searches[name]
    return json.loads(run_search().read_bytes()) if options.trials else None


def search_settings(
    options: Options,
    name: str,
    identity: Json,
    make_candidate: Callable[[], search.Candidate],
) -> Path:
    """Return OUT/trials/MODEL.json; search unless the file is from the same search.

    Args:
        options: options of the bench.
        name: name of the model.
        identity: everything that the search depends on besides the options.
        make_candidate: function that returns the model with its search space. It is called only for
            a new search.

    Raises:
        UserError: if all trials failed.
    """
    path = options.out / "trials" / f"{name}.json"
    identity = {
        "model": name,
        "trials": max(options.trials, 1),
        "minutes": options.minutes,
        "fixed": sorted(options.assignments[name]),
        **identity,
    }
    if path.is_file() and json.loads(path.read_bytes()).get("identity") == identity:
        log.info("%s: the trials of %s are reused", name, path)
        _check_best(path)
        return path
    log.info("%s: search started", name)
    candidate = make_candidate()
    trials = search.search(candidate, trials=identity["trials"], minutes=options.minutes)
    best = search.best(trials)
    content: Json = {
        "identity": identity,
        "space": {n: list(values) for n, values in candidate.space.items()},
        "trials": [trial._asdict() for trial in trials],
        "best": best._asdict() if best else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    _check_best(path)
    return path


def _check_best(path: Path) -> None:
    """Raise UserError unless at least one trial of the file succeeded."""
    content = json.loads(path.read_bytes())
    if not content["best"]:
        trials = content["trials"]
        raise UserError(
            f"{path}: all {len(trials)} trials failed. The first error: {trials[0]['failed']}"
        )
