"""Searches and trains the models of the stage `baselines` in a bench."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from components.baselines.entries import ENTRIES, ModelName
from components.baselines.spec import STAGE, Execution, Inputs, Outputs, Settings, used_inputs
from macrec.core.artifact import Artifact, Json
from macrec.core.executor import execute
from macrec.core.fingerprint import code_version
from macrec.core.progress import log
from macrec.core.settings import fields
from macrec.core.store import ArtifactStore
from macrec.metrics.significance import read_scores
from pipelines.bench import settings_search
from pipelines.bench.dataset import Dataset
from pipelines.bench.options import Options
from pipelines.bench.table import System
from pipelines.bench.work import work


class Training(NamedTuple):
    """One training, which one process runs; can be pickled."""

    config: Settings
    artifacts: dict[str, Path]
    """Folders of the inputs, by name."""
    folder: Path
    store: Path
    execution: Execution


def systems(options: Options, dataset: Dataset, names: Sequence[ModelName]) -> dict[str, System]:
    """Search, train and test the named models, `options.jobs` trainings at a time."""
    found, trainings = dict[str, System](), list[Training]()
    for name in names:
        search = settings_search.search_of(options, name, partial(searched, options, dataset, name))
        best = search["best"]["settings"] if search else {}
        given = dict(assignment.split("=", 1) for assignment in options.own[name])
        settings = tuple(f"{n}={value}" for n, value in (best | given).items())
        seeds = list(range(options.seeds if ENTRIES[name].seeded else 1))
        found[name] = System(name, ENTRIES[name].title, [*seeds], [], [], settings, search)
        trainings += [_training(options, dataset, name, settings, seed) for seed in seeds]
    for training, figures in work(_trained, trainings, options.jobs):
        name, seed = training.config.model, training.config.seed
        found[name].figures.append(figures)
        predictions = _outputs(training).predictions
        found[name].scores.append(read_scores(Artifact.open(predictions.path), name))
        log.info("%s, seed %d: NDCG@10 %.4f", name, seed, figures["ndcg_10"])
    return found


def _training(
    options: Options, dataset: Dataset, name: ModelName, settings: tuple[str, ...], seed: int
) -> Training:
    config = Settings(model=name, settings=settings, seed=seed, **options.stage)
    given = vars(inputs_of(dataset, name)).items()
    artifacts = {n: artifact.path.resolve() for n, artifact in given if artifact}
    out = options.out.resolve()
    folder = out / name / f"seed-{seed}"
    return Training(config, artifacts, folder, out / "store", options.execution)


def _outputs(training: Training) -> Outputs:
    kinds = fields(Outputs)
    return Outputs(**{p.name: p.kind(training.folder / p.name) for p in kinds})


def _trained(training: Training) -> dict[str, float]:
    inputs = Inputs(**{n: Artifact.open(path) for n, path in training.artifacts.items()})
    outputs, store = _outputs(training), ArtifactStore(str(training.store))
    done = execute(STAGE, training.config, inputs, outputs, training.execution, store=store)
    return done.metrics


def inputs_of(dataset: Dataset, name: ModelName) -> Inputs:
    """Return the artifacts of the data set that the model reads."""
    takes = {f.name for f in dataclasses.fields(Inputs)}
    inputs = Inputs(**{n: a for n, a in dataset.artifacts.items() if n in takes})
    return used_inputs(Settings(model=name), inputs)


def searched(options: Options, dataset: Dataset, name: ModelName) -> Path:
    """Return the file of a model's trials; search only if it is not from the same search."""
    from components.baselines.registry import baseline, read_settings
    from components.baselines.search import of_baseline
    from components.baselines.stage import opened

    def candidate() -> Any:
        config = Settings(model=name, **options.stage)
        _, data, course = opened(config, inputs_of(dataset, name), options.execution)
        return of_baseline(baseline(name), data, course, read_settings(name, options.own[name]))

    asked: Json = {
        "stage": options.stage,
        "inputs": {n: dataset.artifacts[n].digest for n in ("sequences", *ENTRIES[name].reads)},
        "code_version": code_version(STAGE, Settings(model=name)),
    }
    return settings_search.searched(options, name, asked, candidate)
