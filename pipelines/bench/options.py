"""The checked options of `macrec bench` and `macrec tune`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from components.baselines.entries import MODELS
from components.baselines.spec import Execution, Settings
from macrec.core.errors import UserError, check
from macrec.core.settings import build, fields
from macrec.core.stage_command import split_assignment
from pipelines.bench.earlier import EarlierBench, read_earlier_bench
from pipelines.bench.recipes import ABLATIONS, PRESET_SYSTEMS, RECIPES, searched_as

SET_BY_BENCH: Final = ("model", "settings", "seed")
"""Settings of the stage `baselines` that the bench itself sets."""
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "all": (*MODELS, *RECIPES),
    "baselines": MODELS,
    "own": tuple(PRESET_SYSTEMS),
    "ablations": tuple(ABLATIONS),
}


class Options(NamedTuple):
    """The checked options of a bench or a search."""

    models: tuple[str, ...]
    """Baselines and our own systems, in the order of the table."""
    required_models: frozenset[str]
    """Models listed by name rather than through a group; they must not be left out."""
    seeds: int
    trials: int
    """Number of trials per model; 0 means no search."""
    minutes: float
    """Time limit of the search, per model."""
    out: Path
    shared: dict[str, Any]
    """Settings of the stage `baselines` that are the same for every model."""
    assignments: dict[str, list[str]]
    """NAME=VALUE settings of single models, which a search does not change."""
    execution: Execution
    configs: tuple[Path, ...] = ()
    """Files with settings of the data set, for our own systems."""
    jobs: int = 1
    """Number of searches or trainings that run at a time."""
    earlier: EarlierBench | None = None
    """Earlier searches whose settings replace a search."""


def read_options(
    *,
    out: Path,
    models: str = "all",
    seeds: int = 1,
    trials: int = 0,
    minutes: float = 30.0,
    searched: Path | None = None,
    configs: Sequence[Path] = (),
    assignments: Sequence[str] = (),
    device: str = "auto",
    threads: int = 0,
    jobs: int = 1,
) -> Options:
    """Check the options of the command line and return them.

    Args:
        out: folder of the results.
        models: names and groups, separated by commas.
        seeds: number of trainings per model.
        trials: number of trials per model; 0 means no search.
        minutes: time limit of the search, per model.
        searched: bench.json whose searches replace a search.
        configs: files with settings of the data set.
        assignments: NAME=VALUE or MODEL.NAME=VALUE.
        device: cpu, cuda or auto.
        threads: CPU threads per process; 0 means 1 with several jobs, else torch's default.
        jobs: number of searches or trainings that run at a time.

    Raises:
        UserError: a model or a setting is unknown, or a number is out of range.
    """
    listed = models.split(",")
    names = list(dict.fromkeys(n for name in listed for n in GROUPS.get(name, (name,))))
    unknown = [name for name in names if name not in GROUPS["all"]]
    check(
        not unknown,
        f"--models: there is no model {', '.join(unknown)}. The models are "
        f"{', '.join(GROUPS['all'])}; the groups are {', '.join(GROUPS)}.",
    )
    for name, value in (("seeds", seeds), ("jobs", jobs)):
        check(value >= 1, f"--{name} {value}: give 1 or more.")
    check(trials >= 0, f"--trials {trials}: give 0 or more.")
    check(minutes > 0, f"--minutes {minutes:g}: give a number above 0.")
    check(not (searched and trials), "give --searched or --trials, not both.")
    shared, by_model = _read_assignments(assignments, names)
    settings = dataclasses.asdict(build(Settings, shared))
    return Options(
        models=tuple(names),
        required_models=frozenset(listed) - set(GROUPS),
        seeds=seeds,
        trials=trials,
        minutes=minutes,
        out=out,
        shared={name: value for name, value in settings.items() if name not in SET_BY_BENCH},
        assignments=by_model,
        execution=build(Execution, {"device": device, "threads": threads or int(jobs > 1)}),
        configs=tuple(configs),
        jobs=jobs,
        earlier=read_earlier_bench(searched, names) if searched else None,
    )


def _read_assignments(
    assignments: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the --set values that apply to all models, and those of single models."""
    settings = [p.name for p in fields(Settings) if p.name not in SET_BY_BENCH]
    searched = [searched_as(name) for name in names if name in RECIPES]
    shared: dict[str, str] = {}
    by_model: dict[str, list[str]] = {name: [] for name in (*names, *searched)}
    for assignment in assignments:
        name, value = split_assignment(assignment)
        model, dot, setting = name.partition(".")
        if dot and model in by_model:
            by_model[model].append(f"{setting}={value}")
        elif name in settings:
            shared[name] = value
        else:
            raise UserError(
                f"--set {assignment}: write NAME=VALUE, where NAME is {', '.join(settings)}, or "
                f"MODEL.NAME=VALUE, where MODEL is {', '.join(by_model)}."
            )
    return shared, by_model
