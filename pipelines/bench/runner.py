"""`macrec bench` and `macrec tune`: compares systems, or searches settings, on one data set."""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast, get_args

from components.baselines.entries import ENTRIES, ModelName
from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from pipelines.bench import bench_stages, models
from pipelines.bench import recipes as bench_recipes
from pipelines.bench.dataset import Dataset, open_dataset
from pipelines.bench.options import Options, add_flags, given
from pipelines.bench.own_systems import Ours
from pipelines.bench.recipes import RECIPES
from pipelines.bench.table import System, compared, markdown
from pipelines.bench.work import work

__all__ = ["add_flags", "bench", "given", "run_bench", "run_tune", "tune"]


def bench(options: Options, dataset: Dataset) -> Path:
    """Search, train, test and compare the systems; write OUT/bench.json and OUT/table.md.

    Results that an earlier call with the same OUT finished are reused.

    Returns:
        The path of table.md.

    Raises:
        UserError: if the data set cannot be used, the run was tested on other users, settings are
            invalid, or no system was trained.
    """
    names, left_out = _that_can_run(options, dataset)
    if (earlier := options.earlier) and earlier.sequences != dataset.artifacts["sequences"].digest:
        log.warning("%s searched on other sequences than these.", earlier.said["file"])
    recipes = [name for name in names if name in RECIPES]
    # Checks the settings of our own systems before any search or training starts.
    ours = Ours(options, dataset) if recipes else None
    if options.trials:
        _search(options, dataset, names)
    systems: dict[str, System] = {**models.systems(options, dataset, _baselines(names))}
    failed: list[Json] = []
    if ours:
        found = ours.systems(recipes)
        systems |= found.systems
        failed = found.failed
    in_order = [systems[name] for name in names if name in systems]
    if dataset.own:
        name, scores, figures = dataset.own
        title = f"MACRec, {name}"
        in_order.append(System(f"run_{name}", title, [None], [scores], [figures], (), None))
    if not in_order:
        raise UserError("no system was trained: " + "; ".join(f["reason"] for f in failed))
    told: Json = {
        "dataset": dataset.folder.name,
        "sequences": dataset.artifacts["sequences"].digest,
        "items": dataset.artifacts["items"].rows,
        "stage": options.stage,
        **_how_searched(options),
        "left_out": left_out,
        "failed": failed,
        **compared(in_order),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "bench.json", (json.dumps(told, indent=1) + "\n").encode())
    table = options.out / "table.md"
    write_atomically(table, ("\n".join(markdown(told)) + "\n").encode())
    return table


def _how_searched(options: Options) -> Json:
    if not options.earlier:
        return {"trials": options.trials, "minutes": options.minutes}
    said, _, trials, minutes, _ = options.earlier
    return {"trials": trials, "minutes": minutes, "searched": said}


def tune(options: Options, dataset: Dataset) -> list[Path]:
    """Search the settings only; write OUT/trials/MODEL.json for each model, which a bench reuses.

    Returns:
        The paths of these files.

    Raises:
        UserError: if all trials of a model failed. It is raised after the other models' searches.
    """
    names, _ = _that_can_run(options, dataset)
    if any(name in RECIPES for name in names):
        Ours(options, dataset)  # checks their settings before any search starts
    found = _search(options, dataset, names)
    failed = [str(outcome) for outcome in found if isinstance(outcome, UserError)]
    check(not failed, "\n".join(failed))
    return [outcome for outcome in found if isinstance(outcome, Path)]


def _search(options: Options, dataset: Dataset, names: Sequence[str]) -> list[Path | UserError]:
    """Run the searches that the systems need, `options.jobs` at a time.

    Our own systems come first, because they take longest.

    Returns:
        For each search its file, or the error that ended it.
    """
    own = dict.fromkeys(bench_recipes.searched_as(name) for name in names if name in RECIPES)
    wanted = [*own, *_baselines(names)]
    done = work(partial(_searched, options, dataset), wanted, options.jobs)
    return [outcome for _, outcome in done]


def _searched(options: Options, dataset: Dataset, name: str) -> Path | UserError:
    try:
        if name in RECIPES:
            return Ours(options, dataset).searched(name)
        return models.searched(options, dataset, cast("ModelName", name))
    except UserError as error:  # a failed search must not end the others
        log.warning("%s: no search: %s", name, error)
        return error


def _that_can_run(options: Options, dataset: Dataset) -> tuple[list[str], dict[str, str]]:
    """Return the models whose inputs the data set has, and the reasons why others are left out.

    Raises:
        UserError: if a model listed by name would be left out, or no model remains.
    """
    names, left_out = list[str](), dict[str, str]()
    reads: dict[str, tuple[str, ...]] = dict.fromkeys(RECIPES, bench_stages.GIVEN)
    reads |= {name: entry.reads for name, entry in ENTRIES.items()}
    for name in options.models:
        absent = ", ".join(n for n in reads[name] if n not in dataset.artifacts)
        if not absent:
            names.append(name)
            continue
        left_out[name] = f"reads {absent}, which --dataset {dataset.folder.name} does not have"
        where = "Make them with `macrec stage embed_text` and embed_image beside the sequences"
        check(name not in options.named, f"--models: {name} {left_out[name]}. {where}.")
        log.warning("left out: %s %s", name, left_out[name])
    check(bool(names), "--models: none is left: " + "; ".join(map(" ".join, left_out.items())))
    return names, left_out


def _baselines(names: Sequence[str]) -> list[ModelName]:
    """Return the names that are models of the stage `baselines`."""
    return [model for model in get_args(ModelName) if model in names]


def run_bench(options: argparse.Namespace) -> None:
    """Run the command `bench` and print the table."""
    checked = given(options)
    table = bench(checked, open_dataset(options.dataset, options.system))
    print(table.read_text(), end="")


def run_tune(options: argparse.Namespace) -> None:
    """Run the command `tune` and print a line per model."""
    checked = given(options)
    for path in tune(checked, open_dataset(options.dataset)):
        told = json.loads(path.read_bytes())
        ndcg = told["best"]["validation_ndcg_10"]
        print(f"{path}: {len(told['trials'])} trials, best validation NDCG@10 {ndcg:.4f}")
