"""Compares systems, or searches their settings, on one data set."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast, get_args

from components.baselines.entries import ENTRIES, ModelName
from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from pipelines.bench.bench_stages import REQUIRED_ARTIFACTS
from pipelines.bench.dataset import Dataset
from pipelines.bench.models import search_model, train_models
from pipelines.bench.options import Options
from pipelines.bench.own_systems import PipelineSystems
from pipelines.bench.recipes import RECIPES, searched_as
from pipelines.bench.table import System, compare_systems, markdown
from pipelines.bench.work import run_jobs


def run_bench(options: Options, dataset: Dataset) -> Path:
    """Search, train, test and compare the systems; write OUT/bench.json and OUT/table.md.

    Results that an earlier call with the same OUT finished are reused.

    Returns:
        The path of table.md.

    Raises:
        UserError: if the data set cannot be used, the run was tested on other users, settings are
            invalid, or no system was trained.
    """
    names, left_out = _select_models(options, dataset)
    digest = dataset.artifacts["sequences"].digest
    if options.earlier and options.earlier.sequences != digest:
        origin = options.earlier.origin["file"]
        log.warning("--searched %s: the search used other sequences than --dataset", origin)
    recipes = [name for name in names if name in RECIPES]
    # Checks the settings of our own systems before any search or training starts.
    pipeline_systems = PipelineSystems(options, dataset) if recipes else None
    if options.trials:
        _run_searches(options, dataset, names)
    systems: dict[str, System] = {**train_models(options, dataset, _baselines(names))}
    failures: list[Json] = []
    if pipeline_systems:
        outcome = pipeline_systems.train(recipes)
        systems |= outcome.systems
        failures = outcome.failures
    in_order = [systems[name] for name in names if name in systems]
    if dataset.run_list:
        name, scores, figures = dataset.run_list
        title = f"MACRec, {name}"
        in_order.append(System(f"run_{name}", title, [None], [scores], [figures], (), None))
    if not in_order:
        raise UserError("no system was trained: " + "; ".join(f["reason"] for f in failures))
    result: Json = {
        "dataset": dataset.folder.name,
        "sequences": digest,
        "items": dataset.artifacts["items"].rows,
        "stage": options.shared,
        **_search_figures(options),
        "left_out": left_out,
        "failed": failures,
        **compare_systems(in_order),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "bench.json", (json.dumps(result, indent=1) + "\n").encode())
    table = options.out / "table.md"
    write_atomically(table, ("\n".join(markdown(result)) + "\n").encode())
    return table


def _search_figures(options: Options) -> Json:
    if not (earlier := options.earlier):
        return {"trials": options.trials, "minutes": options.minutes}
    return {"trials": earlier.trials, "minutes": earlier.minutes, "searched": earlier.origin}


def run_tune(options: Options, dataset: Dataset) -> list[Path]:
    """Search the settings only; write OUT/trials/MODEL.json for each model, which a bench reuses.

    Returns:
        The paths of these files.

    Raises:
        UserError: if all trials of a model failed. It is raised after the other models' searches.
    """
    names, _ = _select_models(options, dataset)
    if any(name in RECIPES for name in names):
        PipelineSystems(options, dataset)  # checks their settings before any search starts
    outcomes = _run_searches(options, dataset, names)
    errors = [str(outcome) for outcome in outcomes if isinstance(outcome, UserError)]
    check(not errors, "\n".join(errors))
    return [outcome for outcome in outcomes if isinstance(outcome, Path)]


def _run_searches(
    options: Options, dataset: Dataset, names: Sequence[str]
) -> list[Path | UserError]:
    """Run the searches that the systems need, `options.jobs` at a time.

    Our own systems come first, because they take longest.

    Returns:
        For each search its file, or the error that ended it.
    """
    systems = dict.fromkeys(searched_as(name) for name in names if name in RECIPES)
    searches = [*systems, *_baselines(names)]
    outcomes = run_jobs(partial(_run_search, options, dataset), searches, options.jobs)
    return [outcome for _, outcome in outcomes]


def _run_search(options: Options, dataset: Dataset, name: str) -> Path | UserError:
    try:
        if name in RECIPES:
            return PipelineSystems(options, dataset).run_search(name)
        return search_model(options, dataset, cast("ModelName", name))
    except UserError as error:  # a failed search must not end the others
        log.warning("%s: the search failed: %s", name, error)
        return error


def _select_models(options: Options, dataset: Dataset) -> tuple[list[str], dict[str, str]]:
    """Return the models whose inputs the data set has, and the reasons why others are left out.

    Raises:
        UserError: if a model listed by name would be left out, or no model remains.
    """
    names, left_out = list[str](), dict[str, str]()
    inputs: dict[str, tuple[str, ...]] = dict.fromkeys(RECIPES, REQUIRED_ARTIFACTS)
    inputs |= {name: entry.reads for name, entry in ENTRIES.items()}
    for name in options.models:
        absent = ", ".join(n for n in inputs[name] if n not in dataset.artifacts)
        if not absent:
            names.append(name)
            continue
        left_out[name] = f"reads {absent}, which --dataset {dataset.folder.name} does not have"
        remedy = "Run `macrec stage embed_text` and `macrec stage embed_image` with the same --out"
        check(
            name not in options.required_models,
            f"--models: {name} {left_out[name]}. {remedy} as prepare_data.",
        )
        log.warning("left out: %s %s", name, left_out[name])
    reasons = "; ".join(map(" ".join, left_out.items()))
    check(bool(names), f"--models: all models are left out: {reasons}")
    return names, left_out


def _baselines(names: Sequence[str]) -> list[ModelName]:
    """Return the names that are models of the stage `baselines`."""
    return [model for model in get_args(ModelName) if model in names]
