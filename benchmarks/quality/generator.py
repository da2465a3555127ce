"""Compares settings of the generator on validation users, with the codes of one run.

    PYTHONPATH=src:. python benchmarks/quality/generator.py OUT \\
        --config configs/scientific.yaml --results FILE.jsonl [--variants FILE.yaml] \\
        [--only NAME ...] [--seeds 2] [--set validation_users=0]

OUT is the output folder of a `macrec run`. Its sequences and semantic IDs are the training data. A
variant is the configuration of the data set with the settings from the variants file. Test items
are never used.

The script appends one JSON line per variant and seed to FILE: the best validation NDCG@10 of the
fused list, its curve, epochs, steps and seconds. Lines that already exist are not computed again,
so an interrupted search can continue. --table prints the means.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import shared
from components.run_form import flatten, stage_values
from components.train import spec as train
from macrec.core.artifact import Artifact
from macrec.core.settings import build
from pipelines.dag.config_file import read_config
from pipelines.local.id_version import find_run_artifacts

VARIANTS = Path(__file__).with_name("generator_variants.yaml")


def main() -> None:
    options = _options()
    variants: dict[str, dict[str, Any]] = yaml.safe_load(options.variants.read_text())
    if options.table:
        table(shared.read_lines(options.results))
        return
    shared.start_logging()
    folders = find_run_artifacts(options.out, ["sequences", "semantic_ids"])
    inputs = train.Inputs(**{name: Artifact.open(path) for name, path in folders.items()})
    base = read_train_settings(options.config) | shared.read_assignments(options.set)
    for seed in range(options.seeds):
        for name in options.only or variants:
            lines = shared.read_lines(options.results)
            if any((line["variant"], line["seed"]) == (name, seed) for line in lines):
                continue
            line = measure(inputs, base | variants[name] | {"seed": seed}, options.threads)
            line = {"benchmark": "generator", "label": options.label, "variant": name} | line
            shared.append_line(options.results, line)
            shown = {k: line[k] for k in ("variant", "seed", "validation_ndcg_10", "seconds")}
            shared.print_line(shown)


def read_train_settings(configs: list[Path]) -> dict[str, Any]:
    """Return the settings of the stage train from configuration files. Later files win."""
    values: dict[str, Any] = {}
    for path in configs:
        values |= flatten(read_config(path))
    return stage_values(values, train.STAGE)


def measure(inputs: train.Inputs, values: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Train once and return the results."""
    settings: train.Settings = build(train.Settings, values)
    execution = train.Execution(device="cpu", threads=threads)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        training = shared.run_stage(train.STAGE, settings, inputs, Path(folder), execution)
        curve = json.loads(training.artifact("recommender").file("history.json").read_bytes())
    metrics = training.metrics
    ndcg = {row["epoch"]: row["validation_ndcg_at_10"] for row in curve}
    return {
        "seed": settings.seed,
        "settings": dict(values),
        "validation_ndcg_10": round(metrics["validation_ndcg_at_10"], 5),
        "best_epoch": int(metrics["best_epoch"]),
        "epochs": int(metrics["epochs"]),
        "steps": int(metrics["steps"]),
        "curve": {epoch: round(value, 5) for epoch, value in ndcg.items() if value is not None},
        "seconds": round(time.monotonic() - started, 1),
        "rows_per_second": round(metrics["rows_per_second"], 1),
        **shared.describe_origin(),
    }


def table(lines: list[dict[str, Any]]) -> None:
    """Print the mean of each variant over its seeds, best first, and the difference from `base`."""
    values: dict[str, dict[int, float]] = {}
    for line in lines:
        values.setdefault(line["variant"], {})[line["seed"]] = line["validation_ndcg_10"]
    base = values.get("base", {})
    print("| variant | seeds | validation NDCG@10 | against base, same seeds |")
    print("|---|---|---|---|")
    for name, by_seed in sorted(values.items(), key=lambda v: -float(np.mean(list(v[1].values())))):
        mean = float(np.mean(list(by_seed.values())))
        both = sorted(by_seed.keys() & base.keys())
        gains = ", ".join(f"{by_seed[seed] - base[seed]:+.4f}" for seed in both)
        print(f"| {name} | {len(by_seed)} | {mean:.4f} | {gains if name != 'base' else ''} |")


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("out", type=Path, help="output folder of a `macrec run`")
    parser.add_argument("--config", type=Path, action="append", default=[], help="of the data set")
    parser.add_argument("--variants", type=Path, default=VARIANTS, help="YAML: name, settings")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these variants")
    parser.add_argument("--seeds", type=int, default=1)
    shared.add_settings_flag(parser, "train")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    shared.add_threads_flag(parser)
    parser.add_argument("--label", default="", help="name of the data in the lines")
    parser.add_argument("--table", action="store_true", help="print the table of FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
