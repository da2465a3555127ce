"""Configures, searches and trains our own systems in a bench."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.artifact import Artifact, Json
from macrec.core.errors import UserError
from macrec.core.progress import log
from macrec.metrics.significance import read_scores
from pipelines.bench import bench_stages, recipes, settings_search
from pipelines.bench.dataset import Dataset
from pipelines.bench.options import Options
from pipelines.bench.recipes import RECIPES, Settings
from pipelines.bench.table import System
from pipelines.bench.work import work


class Found(NamedTuple):
    """The trained systems, and the searches and trainings that failed."""

    systems: dict[str, System]
    failed: list[Json]


class Ours:
    """Our own systems on a data set.

    Raises:
        UserError: if the settings of a system are invalid.
    """

    def __init__(self, options: Options, dataset: Dataset) -> None:
        self.options, self.dataset = options, dataset
        files, self._origins = recipes.of_files(options.configs)
        self._data = files or recipes.settings_of_run(dataset.arguments)
        self._place = bench_stages.Place(
            {name: dataset.artifacts[name].path.resolve() for name in bench_stages.GIVEN},
            options.out.resolve(),
            options.execution.device,
            options.execution.threads,
        )
        for name in options.models:
            if name in RECIPES:
                self.settings(name, {})

    def settings(self, name: str, found: Settings) -> Settings:
        """Return all settings of a system that differ from the defaults.

        Args:
            name: name of the system.
            found: settings that the search found.
        """
        return recipes.settings_of(
            name,
            data=self._data,
            origins=self._origins,
            found=found,
            own=self.options.own,
            shared=self.options.stage,
        )

    def searched(self, name: str) -> Path:
        """Return the file of a system's trials; search only if it is not from the same search."""
        fixed = [assignment.partition("=")[0] for assignment in self.options.own[name]]
        settings = self.settings(name, {})
        space = recipes.space(settings, fixed)
        asked: Json = {
            # JSON turns tuples into lists, as in the file that this is compared with.
            "settings": json.loads(json.dumps(settings)),
            "inputs": {name: self.dataset.artifacts[name].digest for name in bench_stages.GIVEN},
            "code_version": bench_stages.versions(),
        }
        settings_with = partial(self.settings, name)
        candidate = partial(bench_stages.candidate, self._place, settings_with, space)
        return settings_search.searched(self.options, name, asked, candidate)

    def search_of(self, name: str) -> Json | None:
        """Return the search that decides a system's settings; an ablation uses that of MACRec."""
        model = recipes.searched_as(name)
        return settings_search.search_of(self.options, model, partial(self.searched, model))

    def systems(self, names: list[str]) -> Found:
        """Search, train and test; log and omit searches and trainings that fail."""
        searches, failed = dict[str, Any](), list[Json]()
        jobs: list[bench_stages.Job] = []
        for name in names:
            try:
                searches[name] = self.search_of(name)
            except UserError as error:
                failed.append({"system": name, "seed": None, "reason": str(error)})
                log.warning("%s: left out: %s", name, error)
                continue
            found = searches[name]["best"]["settings"] if searches[name] else {}
            settings = self.settings(name, found)
            jobs += [bench_stages.Job(name, seed, settings) for seed in range(self.options.seeds)]
        systems: dict[str, System] = {}
        do = partial(bench_stages.done, self._place)
        for job, done in work(do, jobs, self.options.jobs):
            if isinstance(done, str):
                failed.append({"system": job.system, "seed": job.seed, "reason": done})
                continue
            told = tuple(f"{n}={value}" for n, value in sorted(job.settings.items()))
            title, search = RECIPES[job.system].title, searches[job.system]
            empty = System(job.system, title, [], [], [], told, search)
            system = systems.setdefault(job.system, empty)
            system.seeds.append(job.seed)
            system.figures.append(done.figures)
            system.scores.append(read_scores(Artifact.open(done.predictions), done.list))
        return Found(systems, failed)
