"""Configures, searches and trains our own systems in a bench."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.artifact import Artifact, Json
from macrec.core.errors import UserError
from macrec.core.progress import log
from macrec.metrics.significance import read_scores
from pipelines.bench import bench_stages, recipes
from pipelines.bench.bench_stages import REQUIRED_ARTIFACTS, TrainingJob
from pipelines.bench.dataset import Dataset
from pipelines.bench.options import Options
from pipelines.bench.recipes import RECIPES, Settings
from pipelines.bench.settings_search import find_search, search_settings
from pipelines.bench.table import System
from pipelines.bench.work import run_jobs


class Outcome(NamedTuple):
    """The trained systems, and the searches and trainings that failed."""

    systems: dict[str, System]
    failures: list[Json]


class PipelineSystems:
    """Our own systems on a data set: they run the stages of the DAG.

    Raises:
        UserError: if the settings of a system are invalid.
    """

    def __init__(self, options: Options, dataset: Dataset) -> None:
        self.options, self.dataset = options, dataset
        files, self._origins = recipes.settings_of_files(options.configs)
        self._data = files or recipes.settings_of_run(dataset.arguments)
        self._workspace = bench_stages.Workspace(
            {name: dataset.artifacts[name].path.resolve() for name in REQUIRED_ARTIFACTS},
            options.out.resolve(),
            options.execution.device,
            options.execution.threads,
        )
        for name in options.models:
            if name in RECIPES:
                self.settings(name, {})

    def settings(self, name: str, searched: Settings) -> Settings:
        """Return all settings of a system that differ from the defaults.

        Args:
            name: name of the system.
            searched: settings that the search chose.
        """
        return recipes.settings_of_system(
            name,
            data=self._data,
            origins=self._origins,
            searched=searched,
            assignments=self.options.assignments,
            shared=self.options.shared,
        )

    def run_search(self, name: str) -> Path:
        """Return the file of a system's trials; search only if it is not from the same search."""
        constants = [text.partition("=")[0] for text in self.options.assignments[name]]
        settings = self.settings(name, {})
        space = recipes.search_space(settings, constants)
        identity: Json = {
            # JSON turns tuples into lists, as in the file that this is compared with.
            "settings": json.loads(json.dumps(settings)),
            "inputs": {name: self.dataset.artifacts[name].digest for name in REQUIRED_ARTIFACTS},
            "code_version": bench_stages.code_versions(),
        }
        settings_with = partial(self.settings, name)
        make_candidate = partial(bench_stages.candidate, self._workspace, settings_with, space)
        return search_settings(self.options, name, identity, make_candidate)

    def find_search(self, name: str) -> Json | None:
        """Return the search that decides a system's settings; an ablation uses that of MACRec."""
        model = recipes.searched_as(name)
        return find_search(self.options, model, partial(self.run_search, model))

    def train(self, names: list[str]) -> Outcome:
        """Search, train and test; log and omit searches and trainings that fail."""
        searches, failures = dict[str, Any](), list[Json]()
        jobs: list[TrainingJob] = []
        for name in names:
            try:
                searches[name] = self.find_search(name)
            except UserError as error:
                failures.append({"system": name, "seed": None, "reason": str(error)})
                log.warning("%s: left out: %s", name, error)
                continue
            best = searches[name]["best"]["settings"] if searches[name] else {}
            settings = self.settings(name, best)
            jobs += [TrainingJob(name, seed, settings) for seed in range(self.options.seeds)]
        systems: dict[str, System] = {}
        run = partial(bench_stages.run_job, self._workspace)
        for job, trained in run_jobs(run, jobs, self.options.jobs):
            if isinstance(trained, str):
                failures.append({"system": job.system, "seed": job.seed, "reason": trained})
                continue
            settings = tuple(f"{n}={value}" for n, value in sorted(job.settings.items()))
            title, search = RECIPES[job.system].title, searches[job.system]
            empty = System(job.system, title, [], [], [], settings, search)
            system = systems.setdefault(job.system, empty)
            system.seeds.append(job.seed)
            system.figures.append(trained.figures)
            system.scores.append(read_scores(Artifact.open(trained.predictions), trained.list))
        return Outcome(systems, failures)
