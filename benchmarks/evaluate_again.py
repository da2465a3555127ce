"""Evaluates the MACRec trainings of a bench with the current code, without training again.

    PYTHONPATH=src:. python benchmarks/evaluate_again.py DATASET BENCH OUT [NAME=VALUE ...]

DATASET and BENCH are the folders of `macrec bench` (`--dataset`, `--out`). Every evaluation of the
bench that mixes in neighbours is repeated by `macrec stage evaluate`. It uses the current defaults,
all validation users, and the seen-items rule and precision of the bench. Settings of the stage, for
example `successor_shares=0.0`, override these.

The outputs of a seed are in OUT/SEED, and `macrec compare` accepts OUT/SEED/predictions. The script
prints one JSON line per seed. Ablations have the same seeds as MACRec, so a bench with neighbours
in both is rejected.
"""

import json
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks import machine
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.metrics.significance import read_scores

INPUTS = {
    "semantic_ids": "resolve_collisions",
    "latents": "quantize",
    "quantizer": "quantize",
    "recommender": "train",
}
ALIKE = ("seen_items", "precision")
"""Settings of the bench's evaluation that are kept because the metrics depend on them."""
METRICS = ("hr_10", "ndcg_10")


def main() -> None:
    options = _options()
    stages = options.bench / "stages"
    known = {name: _by_digest(stages / stage, name) for name, stage in INPUTS.items()}
    by_seed: dict[int, tuple[dict[str, Any], dict[str, Path]]] = {}
    for path in sorted((stages / "evaluate").glob("*/predictions/manifest.json")):
        evaluated = json.loads(path.read_bytes())
        if evaluated["config"]["neighbour_weights"]:
            inputs = {name: known[name][evaluated["inputs"][name]] for name in INPUTS}
            seed = Artifact.open(inputs["recommender"]).manifest["config"]["seed"]
            if seed in by_seed:
                raise UserError(
                    f"{options.bench}: several trainings of seed {seed}; give MACRec's."
                )
            by_seed[seed] = evaluated["config"], inputs
    for seed, (config, inputs) in sorted(by_seed.items()):
        _evaluate(options, seed, config, inputs)


def _options() -> Any:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("bench", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    return parser.parse_args()


def _by_digest(stage: Path, name: str) -> dict[str, Path]:
    """Return the folders of an artifact by digest."""
    return {Artifact.open(path).digest: path for path in stage.glob(f"*/{name}")}


def _evaluate(options: Any, seed: int, config: dict[str, Any], inputs: dict[str, Path]) -> None:
    out = options.out / str(seed)
    given = inputs | {name: options.dataset / name for name in ("items", "sequences")}
    alike = {name: config[name] for name in ALIKE}
    places = {"out": out, "store": options.out / "store"}
    settings = alike | {"validation_users": 0, "single_modality_beams": 0}
    flags = [f"--{n.replace('_', '-')}={value}" for n, value in (given | places).items()]
    flags += [f"--set={n}={value}" for n, value in settings.items()]
    flags += [f"--set={assignment}" for assignment in options.settings]
    command = [
        sys.executable,
        "-m",
        "pipelines.cli.main",
        "stage",
        "evaluate",
        *flags,
    ]
    subprocess.run(command, check=True)
    predictions = Artifact.open(out / "predictions")
    figures = {}
    for system in ("fused", "neighbours", "hybrid"):
        scores = read_scores(predictions, system).values
        figures |= {
            f"{system}_{metric}": round(float(scores[metric].mean()), 5) for metric in METRICS
        }
    told = {"benchmark": "evaluate_again", "dataset": options.dataset.name, "seed": seed}
    stated = {name: value for name, value in predictions.metadata.items() if name != "renormalise"}
    print(json.dumps(told | stated | figures | machine.about("cpu")), flush=True)


if __name__ == "__main__":
    main()
