"""`macrec bench` and `macrec tune`: the baselines on one data set, in one harness, compared."""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from components.baselines import main as stage
from components.baselines.registry import ENTRIES, MODELS, ModelName
from macrec.artifact import Artifact, Json, write_atomically
from macrec.errors import UserError, check
from macrec.fingerprint import code_version
from macrec.parameters import build, fields
from macrec.progress import log
from macrec.significance import read_scores
from macrec.stage import execute
from macrec.store import ArtifactStore
from pipelines.bench_dataset import Dataset, open_dataset
from pipelines.bench_table import System, compared, markdown

DECIDED = ("model", "settings", "seed")
"""Settings of the stage that the bench itself gives."""


class Options(NamedTuple):
    """What is asked for."""

    models: tuple[ModelName, ...]
    seeds: int
    trials: int
    """Of the search, for each model; 0: the defaults."""
    minutes: float
    """Of the search, for each model."""
    out: Path
    stage: dict[str, Any]
    """Settings of the stage, the same for every model."""
    own: dict[str, list[str]]
    """Settings of single models, NAME=VALUE; a search leaves them as they are."""
    execution: Any


def add_flags(parser: argparse.ArgumentParser, *, search_alone: bool = False) -> None:
    """The flags of both commands."""
    add = parser.add_argument
    add(
        "--dataset",
        type=Path,
        required=True,
        help="output folder of a `run`, whose list is compared too, or of `stage prepare_data`",
    )
    add("--models", default="all", help=f"all, or some of {','.join(MODELS)}")
    add("--out", type=Path, required=True, help="folder for the results, and for what is reused")
    add("--trials", type=int, default=20 if search_alone else 0, help="settings to try; per model")
    add("--minutes", type=float, default=30.0, help="time of the search, per model")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the stage baselines, or MODEL.NAME=VALUE of a model",
    )
    add("--device", default="auto", help="cpu, cuda or auto")
    add("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses")
    if not search_alone:
        add("--seeds", type=int, default=1, help="trainings of each model, seeds 0 to N - 1")
        add("--system", default="", help="list of the run (default: the fused one)")


def given(options: argparse.Namespace) -> Options:
    """The options of a command line, checked.

    Raises:
        UserError: a model or a setting that there is not, or a number that makes no sense.
    """
    names = MODELS if options.models == "all" else tuple(options.models.split(","))
    unknown = [name for name in names if name not in MODELS]
    check(not unknown, f"--models: no {', '.join(unknown)}; there are {', '.join(MODELS)}.")
    seeds = getattr(options, "seeds", 1)
    check(seeds >= 1, "--seeds: 1 or more.")
    check(options.trials >= 0 and options.minutes > 0, "--trials: 0 or more; --minutes: above 0.")
    known = [p.name for p in fields(stage.Config) if p.name not in DECIDED]
    shared: dict[str, str] = {}
    own: dict[str, list[str]] = {name: [] for name in names}
    for assignment in options.set:
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
    execution = stage.Execution(device=options.device, threads=options.threads)
    config = dataclasses.asdict(build(stage.Config, shared))
    common = {name: config[name] for name in known}
    return Options(
        names, seeds, options.trials, options.minutes, options.out, common, own, execution
    )


def bench(options: Options, dataset: Dataset) -> Path:
    """Searches, trains, tests and compares; writes OUT/bench.json and OUT/table.md.

    What an earlier call with the same OUT has finished is reused.

    Raises:
        UserError: the data set cannot be used, or the run was tested on other users.
    """
    systems = [_system(options, dataset, name) for name in options.models]
    if dataset.own:
        name, scores, figures = dataset.own
        title = f"MACRec, {name}"
        systems.append(System(f"run_{name}", title, [None], [scores], [figures], (), None))
    told: Json = {
        "dataset": dataset.folder.name,
        "sequences": dataset.artifacts["sequences"].digest,
        "items": dataset.artifacts["items"].rows,
        "stage": options.stage,
        "trials": options.trials,
        "minutes": options.minutes,
        **compared(systems),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "bench.json", (json.dumps(told, indent=1) + "\n").encode())
    table = options.out / "table.md"
    write_atomically(table, ("\n".join(markdown(told)) + "\n").encode())
    return table


def tune(options: Options, dataset: Dataset) -> Iterator[Path]:
    """The search alone: OUT/trials/MODEL.json for each model, which a bench then takes."""
    for name in options.models:
        yield _searched(options, dataset, name)


def _inputs(dataset: Dataset, name: ModelName) -> Any:
    takes = {f.name for f in dataclasses.fields(stage.Inputs)}
    inputs = stage.Inputs(**{n: a for n, a in dataset.artifacts.items() if n in takes})
    return stage.used_inputs(stage.Config(model=name), inputs)


def _system(options: Options, dataset: Dataset, name: ModelName) -> System:
    settings, searched = tuple(options.own[name]), None
    if options.trials:
        searched = json.loads(_searched(options, dataset, name).read_bytes())
        settings = tuple(f"{n}={value}" for n, value in searched["best"]["settings"].items())
    seeds = list(range(options.seeds if ENTRIES[name].seeded else 1))
    system = System(name, ENTRIES[name].title, [*seeds], [], [], settings, searched)
    store = ArtifactStore(str(options.out / "store"))
    for seed in seeds:
        config = stage.Config(model=name, settings=settings, seed=seed, **options.stage)
        folder = options.out / name / f"seed-{seed}"
        outputs = stage.Outputs(**{p.name: p.kind(folder / p.name) for p in fields(stage.Outputs)})
        inputs = _inputs(dataset, name)
        done = execute(stage, config, inputs, outputs, options.execution, store=store)
        system.figures.append(done.metrics)
        system.scores.append(read_scores(Artifact.open(outputs.predictions.path), name))
        log.info("%s, seed %d: NDCG@10 %.4f", name, seed, done.metrics["ndcg_10"])
    return system


def _searched(options: Options, dataset: Dataset, name: ModelName) -> Path:
    """The file of a model's trials, made anew unless it is that of the same search."""
    from components.baselines.registry import baseline, read_settings
    from components.baselines.search import best, search

    path, module = options.out / "trials" / f"{name}.json", baseline(name)
    asked: Json = {
        "model": name,
        "trials": max(options.trials, 1),
        "minutes": options.minutes,
        "fixed": sorted(options.own[name]),
        "stage": options.stage,
        "sequences": dataset.artifacts["sequences"].digest,
        "code_version": code_version(stage),
    }
    if path.is_file() and json.loads(path.read_bytes())["asked"] == asked:
        log.info("%s: the trials are those of %s", name, path)
        return path
    config = stage.Config(model=name, **options.stage)
    _, data, course = stage.opened(config, _inputs(dataset, name), options.execution)
    fixed = read_settings(name, options.own[name])
    limits = {"trials": asked["trials"], "minutes": options.minutes}
    found = search(module, data, course, fixed=fixed, **limits)
    told: Json = {
        "asked": asked,
        "space": {n: list(values) for n, values in module.SPACE.items()},
        "trials": [trial._asdict() for trial in found],
        "best": best(found)._asdict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(told, indent=1) + "\n").encode())
    return path


def run_bench(options: argparse.Namespace) -> None:
    """The command `bench`; prints the table."""
    checked = given(options)
    table = bench(checked, open_dataset(options.dataset, options.system))
    print(table.read_text(), end="")


def run_tune(options: argparse.Namespace) -> None:
    """The command `tune`; prints a line per model."""
    checked = given(options)
    for path in tune(checked, open_dataset(options.dataset)):
        told = json.loads(path.read_bytes())
        ndcg = told["best"]["validation_ndcg_10"]
        print(f"{path}: {len(told['trials'])} trials, best validation NDCG@10 {ndcg:.4f}")
