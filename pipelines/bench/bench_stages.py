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

from components.run_form import RECOMMENDER, stage_values
from components.stages import EVALUATE, stage_named
from macrec.core.artifact import Artifact, write_atomically
from macrec.core.errors import UserError
from macrec.core.executor import execute
from macrec.core.fingerprint import code_version, fingerprint
from macrec.core.progress import log
from macrec.core.settings import build, fields
from macrec.core.store import ArtifactStore
from pipelines.bench.dataset import figures_of, main_list, parameters_of
from pipelines.bench.recipes import SEEDS, STAGES, Settings
from pipelines.dag import compiled_dag
from pipelines.local.pipeline_runner import PIPELINE_YAML

GIVEN: Final = ("sequences", "items", "text_embeddings", "image_embeddings")
"""Artifacts that the data set must have for our own systems."""
MODALITIES: Final = ("text", "image")
TIMED_USERS: Final = 256
QUANTIZER_WEIGHTS: Final = ("model.safetensors", "codebooks.safetensors")


class Place(NamedTuple):
    """The inputs, output folder and device of the stages; can be pickled."""

    artifacts: dict[str, Path]
    """Folders of the data set's artifacts, by name."""
    out: Path
    device: str
    threads: int


class Made(NamedTuple):
    """The artifacts and figures of the stages run so far."""

    artifacts: dict[str, Artifact]
    metrics: dict[str, dict[str, float]]
    """Metrics by stage."""
    seconds: dict[str, float]
    """Seconds by stage, of the call that computed the result. Later reuse does not change them."""


class Trained(NamedTuple):
    """A system trained with one seed, and its test figures."""

    predictions: Path
    list: str
    """Name of the compared list in the predictions."""
    figures: dict[str, float]


class Job(NamedTuple):
    """One training, which one process runs."""

    system: str
    seed: int
    settings: Settings


@lru_cache(maxsize=1)
def wiring() -> dict[str, dict[str, str]]:
    """Return, for every stage, the artifact name of each of its inputs."""
    pipeline = compiled_dag.of_file(PIPELINE_YAML)
    return {
        name: {
            taken: source["taskOutputArtifact"]["outputArtifactKey"]
            for taken, source in pipeline.inputs(name)["artifacts"].items()
        }
        for name in STAGES
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the code version of every stage."""
    return {name: code_version(stage_named(name)) for name in STAGES}


def seeded(settings: Settings, seed: int) -> Settings:
    """Return the settings with all seeds set to `seed`."""
    return settings | dict.fromkeys(SEEDS, seed)


def make(place: Place, settings: Settings, until: str) -> Made:
    """Run the stages up to and including `until`, and reuse results that exist already.

    Raises:
        UserError: if a stage cannot use its input or its result is unusable.
    """
    if place.threads:
        import torch

        torch.set_num_threads(place.threads)  # not every stage has the setting `threads`
    made = Made({n: Artifact.open(path) for n, path in place.artifacts.items()}, {}, {})
    for name in STAGES[: STAGES.index(until) + 1]:
        asked = settings | (_lists(settings, made.metrics) if name == "evaluate" else {})
        _make_one(place, name, asked, made)
    return made


def _lists(settings: Settings, metrics: Mapping[str, Mapping[str, float]]) -> Settings:
    """Return the settings that make `evaluate` produce only the compared list.

    This is the hybrid or fused list. If only one modality has codes, it is the list of that
    modality, with the wider of the two beams.
    """
    beams, wide = (
        settings.get(name, RECOMMENDER.settings[name].default)
        for name in ("evaluate.beams", "evaluate.single_modality_beams")
    )
    if len(_coded(metrics)) == 1:
        beams = max(beams, wide)
    return {"evaluate.beams": beams, "evaluate.single_modality_beams": 0}


def _coded(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the modalities that have codes."""
    return [m for m in MODALITIES if metrics["resolve_collisions"][f"{m}_items"]]


def _make_one(place: Place, name: str, settings: Settings, made: Made) -> None:
    stage = stage_named(name)
    own = stage_values(settings, stage)
    config = build(stage.settings, own)
    execution = build(stage.execution, own | {"device": place.device, "threads": place.threads})
    inputs = stage.inputs(**{taken: made.artifacts[a] for taken, a in wiring()[name].items()})
    folder = place.out / "stages" / name / fingerprint(stage, config, inputs)[:16]
    outputs = stage.outputs(**{p.name: p.kind(folder / p.name) for p in fields(stage.outputs)})
    noted = folder / "seconds.json"
    with _alone(folder):
        store = ArtifactStore(str(place.out / "store"))
        started = time.monotonic()
        done = execute(stage, config, inputs, outputs, execution, store=store)
        if not done.reused:
            seconds = time.monotonic() - started
            write_atomically(noted, (json.dumps({"seconds": seconds}) + "\n").encode())
    made.metrics[name] = done.metrics
    if noted.is_file():
        made.seconds[name] = json.loads(noted.read_bytes())["seconds"]
    for output in vars(outputs).values():
        if output.path.is_dir():
            made.artifacts[output.path.name] = Artifact.open(output.path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder of a result, so that one process computes it while the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def trained(place: Place, settings: Settings) -> Trained:
    """Train and test a system with the seed in the settings.

    Raises:
        UserError: if a stage fails; see `make`.
    """
    made = make(place, settings, "evaluate")
    name = main_list(made.metrics["evaluate"])
    return Trained(made.artifacts["predictions"].path, name, _figures(place, settings, made, name))


def _figures(place: Place, settings: Settings, made: Made, name: str) -> dict[str, float]:
    evaluated, fitted = made.metrics["evaluate"], made.metrics["train"]
    figures = figures_of(name, evaluated, fitted, made.artifacts["recommender"])
    quantizer = made.artifacts["quantizer"]
    weights = [quantizer.file(file) for file in QUANTIZER_WEIGHTS]
    figures["quantizer_parameters"] = float(parameters_of(*weights))
    resolved = made.metrics["resolve_collisions"]
    for modality in _coded(made.metrics):
        for when in ("before", "after"):
            rate = resolved[f"{modality}_collision_rate_{when}"]
            figures[f"{modality}_collisions_{when}"] = rate
    figures["users_per_second"] = _speed(place, settings, made)
    seconds = made.seconds
    figures |= {f"seconds_{stage}": seconds[stage] for stage in seconds}
    # The other stages take a few seconds and are not counted.
    if "quantize" in seconds and "train" in seconds:
        figures["train_seconds"] = seconds["quantize"] + seconds["train"]
    return figures


def _speed(place: Place, settings: Settings, made: Made) -> float:
    """Return the test users ranked per second with a loaded model; the result is stored."""
    predictions = made.artifacts["predictions"]
    noted = predictions.path.parent / "speed.json"
    if not noted.is_file():
        measured = {"users_per_second": _measured(place, settings, made)}
        write_atomically(noted, (json.dumps(measured) + "\n").encode())
    return json.loads(noted.read_bytes())["users_per_second"]


def _measured(place: Place, settings: Settings, made: Made) -> float:
    from macrec.data.split import read_split
    from macrec.ranking.fusion import best_lists
    from macrec.ranking.inference import open_ranker, open_recommender
    from macrec.ranking.neighbour_mix import mixed_neighbours
    from macrec.ranking.ranking_options import RankingOptions

    asked = settings | _lists(settings, made.metrics)
    config = build(EVALUATE.settings, stage_values(asked, EVALUATE))
    recommender = open_recommender(made.artifacts["recommender"], made.artifacts["semantic_ids"])
    items = made.artifacts["items"].rows
    split = read_split(made.artifacts["sequences"], items)
    chosen = RankingOptions.from_metadata(made.artifacts["predictions"].metadata)
    neighbours = None
    if config.neighbour_weights:
        latents, mix = made.artifacts["latents"], chosen.mix
        neighbours = mixed_neighbours(split.training(), items, latents, [mix])[mix]
    ranker = open_ranker(
        recommender,
        chosen,
        device=place.device,
        batch_size=0,
        threads=place.threads,
        neighbours=neighbours,
    )
    users_U = split.users_T
    some_U = users_U[np.linspace(0, len(users_U) - 1, min(len(users_U), TIMED_USERS)).astype(int)]
    histories = split.test(some_U).histories
    ranker.candidates(histories[:8], config.beams)  # warm-up, so that set-up is not measured
    started = time.monotonic()
    candidates = ranker.candidates(histories, config.beams)
    best_lists(candidates, chosen.weights, config.top_k)
    return len(histories) / max(time.monotonic() - started, 1e-9)


def done(place: Place, job: Job) -> Trained | str:
    """Run a job; return the trained system, or the reason why it failed."""
    log.info("%s, seed %d: begins", job.system, job.seed)
    try:
        return trained(place, seeded(job.settings, job.seed))
    except UserError as error:
        log.warning("%s, seed %d: failed: %s", job.system, job.seed, error)
        return str(error)


def candidate(
    place: Place,
    settings_with: Callable[[Settings], Settings],
    space: Mapping[str, tuple[Any, ...]],
) -> Any:
    """Return the search's candidate, which trains and validates but does not test.

    Args:
        place: inputs, output folder and device.
        settings_with: function that returns all settings of a system, given the drawn ones.
        space: candidate values of each setting.

    Returns:
        A `components.baselines.search.Candidate`.
    """
    from components.baselines.search import Candidate, Tried

    declared = RECOMMENDER.settings

    def made(**drawn: Any) -> tuple[tuple[str, Any], ...]:
        settings = settings_with(drawn)
        return tuple((name, settings.get(name, declared[name].default)) for name in space)

    def attempt(config: Any, out_of_time: Callable[[], bool]) -> Tried:
        settings = seeded(settings_with(dict(config)), 0)
        fitted = make(place, settings, "train").metrics["train"]
        return Tried(fitted["validation_ndcg_at_10"], int(fitted["epochs"]))

    return Candidate(space, made, dict, attempt)
