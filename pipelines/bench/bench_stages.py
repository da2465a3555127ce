"""Runs the stages of the DAG for a bench, in this process and with one artifact store.

The compiled pipeline defines which output is which input. The results of a stage are in
OUT/stages/STAGE/, in a folder named by the fingerprint. So a result that does not depend on the
seed or the ablation is computed once. Examples are pseudo-labels, histories, and the quantizer of
all systems that differ only in the generator.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from components.baselines.search import Candidate, TrialResult
from components.run_form import RECOMMENDER, stage_values
from components.stages import EVALUATE, stage_named
from macrec.core.artifact import Artifact, write_atomically
from macrec.core.errors import UserError
from macrec.core.executor import execute
from macrec.core.fingerprint import code_version, fingerprint
from macrec.core.progress import log
from macrec.core.settings import build, fields
from macrec.core.store import ArtifactStore
from macrec.data.split import read_split
from macrec.ranking.fusion import best_lists
from macrec.ranking.inference import open_ranker, open_recommender
from macrec.ranking.neighbour_mix import mixed_neighbours
from macrec.ranking.ranking_options import RankingOptions
from pipelines.bench.dataset import count_parameters, list_figures, main_list
from pipelines.bench.recipes import SEEDS, STAGES, Settings
from pipelines.dag import compiled_dag
from pipelines.local.pipeline_runner import PIPELINE_YAML

REQUIRED_ARTIFACTS: Final = ("sequences", "items", "text_embeddings", "image_embeddings")
"""Artifacts that the data set must have for our own systems."""
MODALITIES: Final = ("text", "image")
TIMED_USERS: Final = 256
QUANTIZER_WEIGHTS: Final = ("model.safetensors", "codebooks.safetensors")


class Workspace(NamedTuple):
    """The inputs, output folder and device of the stages; can be pickled."""

    artifacts: dict[str, Path]
    """Folders of the data set's artifacts, by name."""
    out: Path
    device: str
    threads: int


class StageResults(NamedTuple):
    """The artifacts and figures of the stages run so far."""

    artifacts: dict[str, Artifact]
    metrics: dict[str, dict[str, float]]
    """Metrics by stage."""
    seconds: dict[str, float]
    """Seconds by stage, of the call that computed the result. Later reuse does not change them."""


class TrainedSystem(NamedTuple):
    """A system trained with one seed, and its test figures."""

    predictions: Path
    list: str
    """Name of the compared list in the predictions."""
    figures: dict[str, float]


class TrainingJob(NamedTuple):
    """One training, which one process runs."""

    system: str
    seed: int
    settings: Settings


@lru_cache(maxsize=1)
def read_wiring() -> dict[str, dict[str, str]]:
    """Return, for every stage, the artifact name of each of its inputs."""
    pipeline = compiled_dag.read_dag(PIPELINE_YAML)
    return {
        name: {
            input_name: source["taskOutputArtifact"]["outputArtifactKey"]
            for input_name, source in pipeline.inputs(name)["artifacts"].items()
        }
        for name in STAGES
    }


@lru_cache(maxsize=1)
def code_versions() -> dict[str, str]:
    """Return the code version of every stage."""
    return {name: code_version(stage_named(name)) for name in STAGES}


def with_seed(settings: Settings, seed: int) -> Settings:
    """Return the settings with all seeds set to `seed`."""
    return settings | dict.fromkeys(SEEDS, seed)


def run_stages(workspace: Workspace, settings: Settings, until: str) -> StageResults:
    """Run the stages up to and including `until`, and reuse results that exist already.

    Raises:
        UserError: if a stage cannot use its input or its result is unusable.
    """
    if workspace.threads:
        torch.set_num_threads(workspace.threads)  # not every stage has the setting `threads`
    artifacts = {name: Artifact.open(path) for name, path in workspace.artifacts.items()}
    results = StageResults(artifacts, {}, {})
    for name in STAGES[: STAGES.index(until) + 1]:
        lists = _list_settings(settings, results.metrics) if name == "evaluate" else {}
        _run_stage(workspace, name, settings | lists, results)
    return results


def _list_settings(settings: Settings, metrics: Mapping[str, Mapping[str, float]]) -> Settings:
    """Return the settings that make `evaluate` produce only the compared list.

    This is the hybrid or fused list. If only one modality has codes, it is the list of that
    modality, with the wider of the two beams.
    """
    beams, wide = (
        settings.get(name, RECOMMENDER.settings[name].default)
        for name in ("evaluate.beams", "evaluate.single_modality_beams")
    )
    if len(_coded_modalities(metrics)) == 1:
        beams = max(beams, wide)
    return {"evaluate.beams": beams, "evaluate.single_modality_beams": 0}


def _coded_modalities(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the modalities that have codes."""
    return [m for m in MODALITIES if metrics["resolve_collisions"][f"{m}_items"]]


def _run_stage(
    workspace: Workspace, name: str, all_settings: Settings, results: StageResults
) -> None:
    """Run one stage and add its result to `results`."""
    stage = stage_named(name)
    values = stage_values(all_settings, stage)
    settings = build(stage.settings, values)
    machine = {"device": workspace.device, "threads": workspace.threads}
    execution = build(stage.execution, values | machine)
    wiring = read_wiring()[name].items()
    inputs = stage.inputs(**{n: results.artifacts[artifact] for n, artifact in wiring})
    folder = workspace.out / "stages" / name / fingerprint(stage, settings, inputs)[:16]
    outputs = stage.outputs(**{p.name: p.kind(folder / p.name) for p in fields(stage.outputs)})
    seconds_file = folder / "seconds.json"
    with _lock(folder):
        store = ArtifactStore(str(workspace.out / "store"))
        started = time.monotonic()
        result = execute(stage, settings, inputs, outputs, execution, store=store)
        if not result.reused:
            seconds = time.monotonic() - started
            write_atomically(seconds_file, (json.dumps({"seconds": seconds}) + "\n").encode())
    results.metrics[name] = result.metrics
    if seconds_file.is_file():
        results.seconds[name] = json.loads(seconds_file.read_bytes())["seconds"]
    for output in vars(outputs).values():
        if output.path.is_dir():
            results.artifacts[output.path.name] = Artifact.open(output.path)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the folder of a result, so that one process computes it while the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def train_system(workspace: Workspace, settings: Settings) -> TrainedSystem:
    """Train and test a system with the seed in the settings.

    Raises:
        UserError: if a stage fails; see `run_stages`.
    """
    results = run_stages(workspace, settings, "evaluate")
    name = main_list(results.metrics["evaluate"])
    figures = _system_figures(workspace, settings, results, name)
    return TrainedSystem(results.artifacts["predictions"].path, name, figures)


def _system_figures(
    workspace: Workspace, settings: Settings, results: StageResults, name: str
) -> dict[str, float]:
    metrics, seconds = results.metrics, results.seconds
    recommender = results.artifacts["recommender"]
    figures = list_figures(name, metrics["evaluate"], metrics["train"], recommender)
    quantizer = results.artifacts["quantizer"]
    weights = [quantizer.file(file) for file in QUANTIZER_WEIGHTS]
    figures["quantizer_parameters"] = float(count_parameters(*weights))
    for modality in _coded_modalities(metrics):
        for moment in ("before", "after"):
            rate = metrics["resolve_collisions"][f"{modality}_collision_rate_{moment}"]
            figures[f"{modality}_collisions_{moment}"] = rate
    figures["users_per_second"] = _ranking_speed(workspace, settings, results)
    figures |= {f"seconds_{stage}": seconds[stage] for stage in seconds}
    # The other stages take a few seconds and are not counted.
    if "quantize" in seconds and "train" in seconds:
        figures["train_seconds"] = seconds["quantize"] + seconds["train"]
    return figures


def _ranking_speed(workspace: Workspace, settings: Settings, results: StageResults) -> float:
    """Return the test users ranked per second with a loaded model; the result is stored."""
    file = results.artifacts["predictions"].path.parent / "speed.json"
    if not file.is_file():
        figures = {"users_per_second": _measure_speed(workspace, settings, results)}
        write_atomically(file, (json.dumps(figures) + "\n").encode())
    return json.loads(file.read_bytes())["users_per_second"]


def _measure_speed(workspace: Workspace, settings: Settings, results: StageResults) -> float:
    artifacts = results.artifacts
    values = stage_values(settings | _list_settings(settings, results.metrics), EVALUATE)
    evaluation = build(EVALUATE.settings, values)
    recommender = open_recommender(artifacts["recommender"], artifacts["semantic_ids"])
    items = artifacts["items"].rows
    split = read_split(artifacts["sequences"], items)
    options = RankingOptions.from_metadata(artifacts["predictions"].metadata)
    neighbours = None
    if evaluation.neighbour_weights:
        mixes = mixed_neighbours(split.training(), items, artifacts["latents"], [options.mix])
        neighbours = mixes[options.mix]
    ranker = open_ranker(
        recommender,
        options,
        device=workspace.device,
        batch_size=0,
        threads=workspace.threads,
        neighbours=neighbours,
    )
    users_U = split.users_T
    some_U = users_U[np.linspace(0, len(users_U) - 1, min(len(users_U), TIMED_USERS)).astype(int)]
    histories = split.test(some_U).histories
    ranker.candidates(histories[:8], evaluation.beams)  # warm-up, so that set-up is not measured
    started = time.monotonic()
    candidates = ranker.candidates(histories, evaluation.beams)
    best_lists(candidates, options.weights, evaluation.top_k)
    return len(histories) / max(time.monotonic() - started, 1e-9)


def run_job(workspace: Workspace, job: TrainingJob) -> TrainedSystem | str:
    """Run a job; return the trained system, or the reason why it failed."""
    log.info("%s, seed %d: started", job.system, job.seed)
    try:
        return train_system(workspace, with_seed(job.settings, job.seed))
    except UserError as error:
        log.warning("%s, seed %d: failed: %s", job.system, job.seed, error)
        return str(error)


def candidate(
    workspace: Workspace,
    settings_with: Callable[[Settings], Settings],
    space: Mapping[str, tuple[Any, ...]],
) -> Candidate:
    """Return the search's candidate, which trains and validates but does not test.

    Args:
        workspace: inputs, output folder and device.
        settings_with: function that returns all settings of a system, given the drawn ones.
        space: candidate values of each setting.
    """
    defaults = {name: RECOMMENDER.settings[name].default for name in space}

    def draw(**drawn: Any) -> tuple[tuple[str, Any], ...]:
        settings = settings_with(drawn)
        return tuple((name, settings.get(name, defaults[name])) for name in space)

    def attempt(config: Any, out_of_time: Callable[[], bool]) -> TrialResult:
        settings = with_seed(settings_with(dict(config)), 0)
        metrics = run_stages(workspace, settings, "train").metrics["train"]
        return TrialResult(metrics["validation_ndcg_at_10"], int(metrics["epochs"]))

    return Candidate(space, draw, dict, attempt)
