"""The data set of `macrec bench`: a folder of prepared data, or a finished `macrec run`."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.artifact import MANIFEST, Artifact
from macrec.core.errors import UserError
from macrec.metrics.significance import UserScores, read_scores
from pipelines.local import run_record
from pipelines.local.id_version import VERSION, left_by

NEEDED = ("sequences", "items")
OPTIONAL = ("text_embeddings", "image_embeddings", "semantic_ids")
SYSTEMS = ("hybrid", "fused", "text", "image")
"""The lists of a run, in order of preference. The main list is the first one that a run has."""


class Own(NamedTuple):
    """The list of a run that takes part in the comparison."""

    system: str
    scores: UserScores
    figures: dict[str, float]
    """The figures that the stage `baselines` reports, as far as the run provides them."""


class Dataset(NamedTuple):
    """The artifacts of a data set, by name, and the list of the run that it comes from."""

    folder: Path
    artifacts: dict[str, Artifact]
    own: Own | None
    arguments: dict[str, Any]
    """The run parameters of the run; empty for a folder of prepared data."""


def open_dataset(folder: Path, system: str = "") -> Dataset:
    """Open a data set.

    Args:
        folder: folder that contains sequences, items and optional embeddings, or the output folder
            of a run.
        system: list of the run to compare; by default the first of `SYSTEMS` that the run has.

    Raises:
        UserError: if the folder is neither.
    """
    if (folder / VERSION).is_file():
        left = left_by(folder, [*NEEDED, "semantic_ids", "predictions", "recommender"])
        opened = {n: Artifact.open(left[n]) for n in (*NEEDED, "semantic_ids")}
        vectors, arguments = _of_record(folder, opened["items"])
        return Dataset(folder, opened | vectors, _own(folder, left, system), arguments)
    absent = [name for name in NEEDED if not (folder / name / MANIFEST).is_file()]
    if absent:
        raise UserError(
            f"--dataset {folder}: no {VERSION} and no {' and no '.join(absent)}. Give the output "
            "folder of a `macrec run`, or of `macrec stage prepare_data`."
        )
    there = [n for n in (*NEEDED, *OPTIONAL) if (folder / n / MANIFEST).is_file()]
    return Dataset(folder, {n: Artifact.open(folder / n) for n in there}, None, {})


def _of_record(folder: Path, items: Artifact) -> tuple[dict[str, Artifact], dict[str, Any]]:
    """Return the run's embeddings of these items, and the run's arguments."""
    try:
        record = run_record.read(folder)
    except UserError:  # an older version wrote no record
        return {}, {}
    tasks = record.tasks(run_record.dag_of(record))
    found: dict[str, Artifact] = {}
    for name in ("text_embeddings", "image_embeddings"):
        task = tasks.get(f"embed_{name.removesuffix('_embeddings')}")
        if task and (task.folder / name / MANIFEST).is_file():
            vectors = Artifact.open(task.folder / name)
            if vectors.manifest["inputs"].get("items") == items.digest:
                found[name] = vectors
    return found, record.arguments


def _own(folder: Path, left: dict[str, Path], system: str) -> Own:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_bytes())
    found = metrics["evaluate"]
    name = system or main_list(found)
    recommender = Artifact.open(left["recommender"])
    figures = figures_of(name, found, metrics["train"], recommender)
    seconds = _seconds(folder)
    if "train" in seconds:
        figures["train_seconds"] = seconds["train"]
    if "recommend" in seconds and metrics["recommend"]["users"]:
        figures["users_per_second"] = metrics["recommend"]["users"] / seconds["recommend"]
    return Own(name, read_scores(Artifact.open(left["predictions"]), name), figures)


def main_list(evaluated: Mapping[str, float]) -> str:
    """Return the main list among those that `evaluate` has measured."""
    return next(name for name in SYSTEMS if f"{name}_ndcg_10" in evaluated)


def figures_of(
    name: str,
    evaluated: Mapping[str, float],
    trained: Mapping[str, float],
    recommender: Artifact,
) -> dict[str, float]:
    """Return the figures of one list of a generator, named as in the stage `baselines`."""
    shown = ("coverage_10", "gini_10", "novelty_10")
    found = {
        figure: evaluated[f"{name}_{figure}"] for figure in shown if f"{name}_{figure}" in evaluated
    }
    return found | {
        "validation_ndcg_10": evaluated.get("validation_ndcg_10", trained["validation_ndcg_at_10"]),
        "epochs": trained["epochs"],
        "parameters": float(parameters_of(recommender.file("model.safetensors"))),
    }


def parameters_of(*files: Path) -> int:
    """Return the number of parameters in safetensors files."""
    from safetensors import safe_open

    total = 0
    for path in files:
        with safe_open(path, "numpy") as weights:
            for name in weights.keys():  # noqa: SIM118
                total += math.prod(weights.get_slice(name).get_shape())
    return total


def _seconds(folder: Path) -> dict[str, float]:
    """Return the seconds of every stage computed in this folder, including its start-up."""
    try:
        record = run_record.read(folder)
    except UserError:  # an older version wrote no record
        return {}
    found: dict[str, float] = {}
    for name, task in record.tasks(run_record.dag_of(record)).items():
        if task.finished and not task.noted.get("reused"):
            started, ended = (datetime.fromisoformat(task.noted[k]) for k in ("started", "ended"))
            found[name] = (ended - started).total_seconds()
    return found
