"""The flags of `macrec bench` and `macrec tune`, and the checked options."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Final, NamedTuple

from components.baselines.entries import MODELS
from components.baselines.spec import Execution, Settings
from macrec.core.errors import UserError, check
from macrec.core.settings import build, fields
from pipelines.bench.earlier import Earlier, read_earlier
from pipelines.bench.recipes import ABLATIONS, OWN, RECIPES, SIZES, searched_as

DECIDED: Final = ("model", "settings", "seed")
"""Settings of the stage `baselines` that the bench itself sets."""
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "all": (*MODELS, *RECIPES),
    "baselines": MODELS,
    "own": tuple(OWN),
    "ablations": tuple(ABLATIONS),
}


class Options(NamedTuple):
    """The checked options of a bench or a search."""

    models: tuple[str, ...]
    """Baselines and our own systems, in the order of the table."""
    named: frozenset[str]
    """Models listed by name rather than through a group; they must not be left out."""
    seeds: int
    trials: int
    """Number of trials per model; 0 means no search."""
    minutes: float
    """Time limit of the search, per model."""
    out: Path
    stage: dict[str, Any]
    """Settings of the stage `baselines` that are the same for every model."""
    own: dict[str, list[str]]
    """NAME=VALUE settings of single models, which a search does not change."""
    execution: Any
    configs: tuple[Path, ...] = ()
    """Files of run parameters of the data set, for our own systems."""
    jobs: int = 1
    """Number of searches or trainings that run at a time."""
    earlier: Earlier | None = None
    """Earlier searches whose settings replace a search."""


def add_flags(parser: argparse.ArgumentParser, *, search_alone: bool = False) -> None:
    """Add the flags of `bench`, or those of `tune` if `search_alone`."""
    add = parser.add_argument
    add(
        "--dataset",
        type=Path,
        required=True,
        help="output folder of a `run`, whose list is compared too, or of `stage prepare_data`",
    )
    add(
        "--models",
        default="all",
        help=f"some of {', '.join((*MODELS, *RECIPES))}, or groups of them: {', '.join(GROUPS)}; "
        "of a group those are left out, and named, that the data set has no vectors for",
    )
    add("--out", type=Path, required=True, help="folder for the results, and for what is reused")
    add("--trials", type=int, default=20 if search_alone else 0, help="settings to try; per model")
    add("--minutes", type=float, default=30.0, help="time of the search, per model")
    add(
        "--config",
        action="append",
        type=Path,
        default=[],
        help="YAML of run parameters: what the data set asks of our own systems, above their "
        "presets; repeated, the later one wins. Without it, and with a run as the data set, those "
        "that the run was given and that no preset or ablation names, and the sizes of its "
        f"codes ({', '.join(sorted(SIZES))})",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the stage baselines, or MODEL.NAME=VALUE of a model; of our own systems "
        "a run parameter, and those of macrec hold for its ablations too",
    )
    add("--device", default="auto", help="cpu, cuda or auto")
    add("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses")
    add(
        "--jobs",
        type=int,
        default=1,
        help="models searched or trained at once, in processes of --threads (default: one) each; "
        "the trials of one model are tried one after the other",
    )
    if not search_alone:
        add("--seeds", type=int, default=1, help="trainings of each model, seeds 0 to N - 1")
        add(
            "--searched",
            type=Path,
            metavar="BENCH.json",
            help="an earlier bench, the settings that it found are taken in place of a search; "
            "--set stands above them",
        )
        add("--system", default="", help="list of the run (default: the hybrid one)")


def given(options: argparse.Namespace) -> Options:
    """Return the checked options of a command line.

    Raises:
        UserError: if a model or a setting is unknown, or a number is out of range.
    """
    asked = options.models.split(",")
    names = list(dict.fromkeys(n for name in asked for n in GROUPS.get(name, (name,))))
    unknown = [name for name in names if name not in GROUPS["all"]]
    there = f"{', '.join(GROUPS['all'])}, or {', '.join(GROUPS)}"
    check(not unknown, f"--models: no {', '.join(unknown)}; there are {there}.")
    seeds, jobs = getattr(options, "seeds", 1), options.jobs
    check(seeds >= 1, "--seeds: 1 or more.")
    check(jobs >= 1, "--jobs: 1 or more.")
    check(options.trials >= 0 and options.minutes > 0, "--trials: 0 or more; --minutes: above 0.")
    earlier = getattr(options, "searched", None)
    check(not (earlier and options.trials), "--searched: settings found earlier, or --trials.")
    shared, own = _assigned(options.set, names)
    threads = options.threads or int(jobs > 1)
    execution = Execution(device=options.device, threads=threads)
    config = dataclasses.asdict(build(Settings, shared))
    return Options(
        models=tuple(names),
        named=frozenset(asked) - set(GROUPS),
        seeds=seeds,
        trials=options.trials,
        minutes=options.minutes,
        out=options.out,
        stage={name: value for name, value in config.items() if name not in DECIDED},
        own=own,
        execution=execution,
        configs=tuple(options.config),
        jobs=jobs,
        earlier=read_earlier(earlier, names) if earlier else None,
    )


def _assigned(
    assignments: list[str], names: list[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the --set values that apply to all models, and those of single models."""
    known = [p.name for p in fields(Settings) if p.name not in DECIDED]
    searched = [searched_as(name) for name in names if name in RECIPES]
    shared: dict[str, str] = {}
    own: dict[str, list[str]] = {name: [] for name in (*names, *searched)}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        model, dot, setting = name.partition(".")
        if not equals or (model not in own if dot else name not in known):
            raise UserError(
                f"--set {assignment}: write NAME=VALUE with one of {', '.join(known)}, or "
                "MODEL.NAME=VALUE with a model of --models."
            )
        if dot:
            own[model].append(f"{setting}={value}")
        else:
            shared[name] = value
    return shared, own
