"""The data set of `macrec bench`: a folder of prepared data, or a finished `macrec run`."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import safe_open

from macrec.core.artifact import MANIFEST, Artifact
from macrec.core.errors import UserError
from macrec.metrics.significance import UserScores, read_scores
from pipelines.local import run_record
from pipelines.local.id_version import VERSION, find_run_artifacts

REQUIRED: Final = ("sequences", "items")
OPTIONAL: Final = ("text_embeddings", "image_embeddings", "semantic_ids")
LISTS: Final = ("hybrid", "fused", "text", "image")
"""The lists of a run, in order of preference. The main list is the first one that a run has."""


class RunList(NamedTuple):
    """The list of a run that takes part in the comparison."""

    system: str
    scores: UserScores
    figures: dict[str, float]
    """The figures that the stage `baselines` reports, as far as the run provides them."""


class Dataset(NamedTuple):
    """The artifacts of a data set, by name, and the list of the run that it comes from."""

    folder: Path
    artifacts: dict[str, Artifact]
    run_list: RunList | None
    arguments: dict[str, Any]
    """The values of the run form; empty for a folder of prepared data."""


def open_dataset(folder: Path, system: str = "") -> Dataset:
    """Open a data set.

    Args:
        folder: folder that contains sequences, items and optional embeddings, or the output folder
            of a run.
        system: list of the run to compare; by default the first of `LISTS` that the run has.

    Raises:
        UserError: if the folder is neither.
    """
    if (folder / VERSION).is_file():
        folders = find_run_artifacts(
            folder, [*REQUIRED, "semantic_ids", "predictions", "recommender"]
        )
        artifacts = {n: Artifact.open(folders[n]) for n in (*REQUIRED, "semantic_ids")}
        vectors, arguments = _read_record(folder, artifacts["items"])
        return Dataset(
            folder, artifacts | vectors, _read_run_list(folder, folders, system), arguments
        )
    absent = [name for name in REQUIRED if not (folder / name / MANIFEST).is_file()]
    if absent:
        raise UserError(
            f"--dataset {folder}: the folder has no {VERSION} and no {' and no '.join(absent)}. "
            "Give the output folder of a `macrec run`, or of `macrec stage prepare_data`."
        )
    present = [n for n in (*REQUIRED, *OPTIONAL) if (folder / n / MANIFEST).is_file()]
    return Dataset(folder, {n: Artifact.open(folder / n) for n in present}, None, {})


def _read_record(folder: Path, items: Artifact) -> tuple[dict[str, Artifact], dict[str, Any]]:
    """Return the run's embeddings of these items, and the run's arguments."""
    try:
        record = run_record.read(folder)
    except UserError:  # an older version wrote no record
        return {}, {}
    tasks = record.tasks(run_record.current_dag(record))
    vectors: dict[str, Artifact] = {}
    for name in ("text_embeddings", "image_embeddings"):
        task = tasks.get(f"embed_{name.removesuffix('_embeddings')}")
        if task and (task.folder / name / MANIFEST).is_file():
            artifact = Artifact.open(task.folder / name)
            if artifact.manifest["inputs"].get("items") == items.digest:
                vectors[name] = artifact
    return vectors, record.arguments


def _read_run_list(folder: Path, folders: Mapping[str, Path], system: str) -> RunList:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_bytes())
    evaluation = metrics["evaluate"]
    name = system or main_list(evaluation)
    figures = list_figures(
        name, evaluation, metrics["train"], Artifact.open(folders["recommender"])
    )
    seconds = _stage_seconds(folder)
    if "train" in seconds:
        figures["train_seconds"] = seconds["train"]
    if "recommend" in seconds and metrics["recommend"]["users"]:
        figures["users_per_second"] = metrics["recommend"]["users"] / seconds["recommend"]
    return RunList(name, read_scores(Artifact.open(folders["predictions"]), name), figures)


def main_list(evaluation: Mapping[str, float]) -> str:
    """Return the main list among those that `evaluate` has measured."""
    return next(name for name in LISTS if f"{name}_ndcg_10" in evaluation)


def list_figures(
    name: str,
    evaluation: Mapping[str, float],
    training: Mapping[str, float],
    recommender: Artifact,
) -> dict[str, float]:
    """Return the figures of one list of a generator, named as in the stage `baselines`.

    Args:
        name: the list.
        evaluation: metrics of the stage evaluate.
        training: metrics of the stage train.
        recommender: the trained generator.
    """
    figures = {
        figure: evaluation[f"{name}_{figure}"]
        for figure in ("coverage_10", "gini_10", "novelty_10")
        if f"{name}_{figure}" in evaluation
    }
    validation = evaluation.get("validation_ndcg_10", training["validation_ndcg_at_10"])
    return figures | {
        "validation_ndcg_10": validation,
        "epochs": training["epochs"],
        "parameters": float(count_parameters(recommender.file("model.safetensors"))),
    }


def count_parameters(*files: Path) -> int:
    """Return the number of parameters in safetensors files."""
    total = 0
    for path in files:
        with safe_open(path, "numpy") as weights:
            for name in weights.keys():  # noqa: SIM118
                total += math.prod(weights.get_slice(name).get_shape())
    return total


def _stage_seconds(folder: Path) -> dict[str, float]:
    """Return the seconds of every stage computed in this folder, including its start-up."""
    try:
        record = run_record.read(folder)
    except UserError:  # an older version wrote no record
        return {}
    seconds: dict[str, float] = {}
    for name, task in record.tasks(run_record.current_dag(record)).items():
        if task.finished and not task.content.get("reused"):
            started, ended = (datetime.fromisoformat(task.content[k]) for k in ("started", "ended"))
            seconds[name] = (ended - started).total_seconds()
    return seconds
