"""Evaluates the MACRec trainings of a bench with the current code, without training again.

    PYTHONPATH=src:. python benchmarks/quality/evaluate_again.py DATASET BENCH OUT \\
        [NAME=VALUE ...]

DATASET and BENCH are the folders of `macrec bench` (`--dataset`, `--out`). Every evaluation of the
bench that mixes in neighbours is repeated with the current defaults, all validation users, and the
seen-items rule and precision of the bench. Settings of the stage evaluate, such as
`successor_shares=0.0`, override these.

The outputs of a seed are in OUT/SEED, and `macrec compare` accepts OUT/SEED/predictions. The script
prints one JSON line per seed. Ablations have the same seeds as MACRec, so a bench with neighbours
in both is rejected.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import shared
from components.evaluate.spec import STAGE, Execution, Inputs, Settings
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.core.settings import build
from macrec.core.stage_command import read_settings
from macrec.metrics.significance import read_scores

STAGES = {
    "semantic_ids": "resolve_collisions",
    "latents": "quantize",
    "quantizer": "quantize",
    "recommender": "train",
}
"""The stage of each artifact that the evaluation reads from the bench."""
SAME_SETTINGS = ("seen_items", "precision")
"""Settings of the bench's evaluation that are repeated because the metrics depend on them."""
METRICS = ("hr_10", "ndcg_10")


def main() -> None:
    options = _options()
    stages = options.bench / "stages"
    folders = {name: _by_digest(stages / stage, name) for name, stage in STAGES.items()}
    by_seed: dict[int, tuple[dict[str, Any], dict[str, Path]]] = {}
    for path in sorted((stages / "evaluate").glob("*/predictions/manifest.json")):
        manifest = json.loads(path.read_bytes())
        if manifest["config"]["neighbour_weights"]:
            inputs = {name: folders[name][manifest["inputs"][name]] for name in STAGES}
            seed = Artifact.open(inputs["recommender"]).manifest["config"]["seed"]
            if seed in by_seed:
                raise UserError(
                    f"{options.bench}: the bench has several trainings of seed {seed} with "
                    "neighbours. Give a bench of MACRec without ablations."
                )
            by_seed[seed] = manifest["config"], inputs
    for seed, (config, inputs) in sorted(by_seed.items()):
        _evaluate(options, seed, config, inputs)


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("bench", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    return parser.parse_args()


def _by_digest(stage: Path, name: str) -> dict[str, Path]:
    """Return the folders of an artifact by digest."""
    return {Artifact.open(path).digest: path for path in stage.glob(f"*/{name}")}


def _evaluate(
    options: argparse.Namespace, seed: int, config: dict[str, Any], folders: dict[str, Path]
) -> None:
    folders = folders | {name: options.dataset / name for name in ("items", "sequences")}
    artifacts: dict[str, Any] = {name: Artifact.open(path) for name, path in folders.items()}
    values = {name: config[name] for name in SAME_SETTINGS}
    values |= {"validation_users": 0, "single_modality_beams": 0}
    values |= read_settings(STAGE, shared.read_assignments(options.settings))
    predictions = shared.run_stage(
        STAGE,
        build(Settings, values),
        Inputs(**artifacts),
        options.out / str(seed),
        build(Execution, values),
        store=options.out / "store",
    ).artifact("predictions")
    figures: dict[str, float] = {}
    for system in ("fused", "neighbours", "hybrid"):
        scores = read_scores(predictions, system).values
        figures |= {
            f"{system}_{metric}": round(float(scores[metric].mean()), 5) for metric in METRICS
        }
    line = {"benchmark": "evaluate_again", "dataset": options.dataset.name, "seed": seed}
    chosen = {name: value for name, value in predictions.metadata.items() if name != "renormalise"}
    shared.print_line(line | chosen | figures | shared.describe_origin())


if __name__ == "__main__":
    main()
