"""Searches and trains the models of the stage `baselines` in a bench."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from components.baselines.entries import ENTRIES, ModelName
from components.baselines.registry import baseline, read_settings
from components.baselines.search import Candidate, baseline_candidate
from components.baselines.spec import STAGE, Execution, Inputs, Outputs, Settings, used_inputs
from components.baselines.stage import open_data
from macrec.core.artifact import Artifact, Json
from macrec.core.executor import execute
from macrec.core.fingerprint import code_version
from macrec.core.progress import log
from macrec.core.settings import fields
from macrec.core.stage_command import split_assignment
from macrec.core.store import ArtifactStore
from macrec.metrics.significance import read_scores
from pipelines.bench.dataset import Dataset
from pipelines.bench.options import Options
from pipelines.bench.settings_search import find_search, search_settings
from pipelines.bench.table import System
from pipelines.bench.work import run_jobs


class Training(NamedTuple):
    """One training, which one process runs; can be pickled."""

    settings: Settings
    artifacts: dict[str, Path]
    """Folders of the inputs, by name."""
    folder: Path
    store: Path
    execution: Execution


def train_models(
    options: Options, dataset: Dataset, names: Sequence[ModelName]
) -> dict[str, System]:
    """Search, train and test the named models, `options.jobs` trainings at a time."""
    systems, trainings = dict[str, System](), list[Training]()
    for name in names:
        search = find_search(options, name, partial(search_model, options, dataset, name))
        values = dict(search["best"]["settings"]) if search else {}
        values |= dict(map(split_assignment, options.assignments[name]))
        settings = tuple(f"{n}={value}" for n, value in values.items())
        seeds = list(range(options.seeds if ENTRIES[name].seeded else 1))
        systems[name] = System(name, ENTRIES[name].title, [*seeds], [], [], settings, search)
        trainings += [_make_training(options, dataset, name, settings, seed) for seed in seeds]
    for training, figures in run_jobs(_train, trainings, options.jobs):
        name, seed = training.settings.model, training.settings.seed
        systems[name].figures.append(figures)
        predictions = _outputs(training).predictions
        systems[name].scores.append(read_scores(Artifact.open(predictions.path), name))
        log.info("%s, seed %d: NDCG@10 %.4f", name, seed, figures["ndcg_10"])
    return systems


def _make_training(
    options: Options, dataset: Dataset, name: ModelName, settings: tuple[str, ...], seed: int
) -> Training:
    stage_settings = Settings(model=name, settings=settings, seed=seed, **options.shared)
    inputs = vars(model_inputs(dataset, name)).items()
    artifacts = {n: artifact.path.resolve() for n, artifact in inputs if artifact}
    out = options.out.resolve()
    folder = out / name / f"seed-{seed}"
    return Training(stage_settings, artifacts, folder, out / "store", options.execution)


def _outputs(training: Training) -> Outputs:
    return Outputs(**{p.name: p.kind(training.folder / p.name) for p in fields(Outputs)})


def _train(training: Training) -> dict[str, float]:
    inputs = Inputs(**{n: Artifact.open(path) for n, path in training.artifacts.items()})
    outputs, store = _outputs(training), ArtifactStore(str(training.store))
    result = execute(STAGE, training.settings, inputs, outputs, training.execution, store=store)
    return result.metrics


def model_inputs(dataset: Dataset, name: ModelName) -> Inputs:
    """Return the artifacts of the data set that the model reads."""
    names = {f.name for f in dataclasses.fields(Inputs)}
    inputs = Inputs(**{n: a for n, a in dataset.artifacts.items() if n in names})
    return used_inputs(Settings(model=name), inputs)


def search_model(options: Options, dataset: Dataset, name: ModelName) -> Path:
    """Return the file of a model's trials; search only if it is not from the same search."""

    def make_candidate() -> Candidate:
        settings = Settings(model=name, **options.shared)
        _, data, schedule = open_data(settings, model_inputs(dataset, name), options.execution)
        constants = read_settings(name, options.assignments[name])
        return baseline_candidate(baseline(name), data, schedule, constants)

    identity: Json = {
        "stage": options.shared,
        "inputs": {n: dataset.artifacts[n].digest for n in ("sequences", *ENTRIES[name].reads)},
        "code_version": code_version(STAGE, Settings(model=name)),
    }
    return search_settings(options, name, identity, make_candidate)
