"""Compares settings of the generator on validation users, with the codes of one run.

    PYTHONPATH=src:. python benchmarks/generator.py OUT --config configs/scientific.yaml \\
        --results FILE.jsonl [--variants FILE.yaml] [--only NAME ...] [--seeds 2] \\
        [--set validation_users=0]

OUT is the output folder of a `macrec run`. Its sequences and semantic IDs are the training data. A
variant is the configuration of the data set with the settings from the variants file. Test items
are never used.

The script appends one JSON line per variant and seed to FILE: the best validation NDCG@10 of the
fused list, its curve, epochs, steps and seconds. Lines that already exist are not computed again,
so an interrupted search can continue. --table prints the means.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import machine
from components.run_form import flatten, stage_values
from components.train import spec as train
from macrec.core.artifact import Artifact, FolderOutput
from macrec.core.settings import build
from macrec.core.stage import Job
from pipelines.local.id_version import left_by

VARIANTS = Path(__file__).with_name("generator_variants.yaml")


def main() -> None:
    options = _options()
    variants: dict[str, dict[str, Any]] = yaml.safe_load(options.variants.read_text())
    if options.table:
        table(_lines(options.results))
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    found = left_by(options.out, ["sequences", "semantic_ids"])
    inputs = train.Inputs(**{name: Artifact.open(path) for name, path in found.items()})
    base = settings(options.config) | dict(pair.split("=", 1) for pair in options.set)
    for seed in range(options.seeds):
        for name in options.only or variants:
            done = {(line["variant"], line["seed"]) for line in _lines(options.results)}
            if (name, seed) in done:
                continue
            line = measure(inputs, base | variants[name] | {"seed": seed}, options.threads)
            line = {"benchmark": "generator", "label": options.label, "variant": name} | line
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            shown = {k: line[k] for k in ("variant", "seed", "validation_ndcg_10", "seconds")}
            print(json.dumps(shown), flush=True)


def settings(configs: list[Path]) -> dict[str, Any]:
    """Return the settings of the stage train from configuration files. Later files win."""
    found: dict[str, Any] = {}
    for path in configs:
        found |= flatten(yaml.safe_load(path.read_text()) or {})
    return stage_values(found, train.STAGE)


def measure(inputs: train.Inputs, given: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Train once and return the results."""
    config: train.Settings = build(train.Settings, given)
    execution = train.Execution(device="cpu", threads=threads)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = FolderOutput(Path(folder) / "recommender")
        output.prepare()
        figures = train.STAGE.run(
            Job(
                settings=config,
                inputs=inputs,
                outputs=train.Outputs(recommender=output),
                execution=execution,
            )
        )
        curve = json.loads((output.path / "history.json").read_text(encoding="utf-8"))
    ndcg = {row["epoch"]: row["validation_ndcg_at_10"] for row in curve}
    return {
        "seed": config.seed,
        "settings": dict(given),
        "validation_ndcg_10": round(figures["validation_ndcg_at_10"], 5),
        "best_epoch": int(figures["best_epoch"]),
        "epochs": int(figures["epochs"]),
        "steps": int(figures["steps"]),
        "curve": {epoch: round(value, 5) for epoch, value in ndcg.items() if value is not None},
        "seconds": round(time.monotonic() - started, 1),
        "rows_per_second": round(figures["rows_per_second"], 1),
        **machine.about("cpu"),
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
        told = ", ".join(f"{by_seed[seed] - base[seed]:+.4f}" for seed in both)
        print(f"| {name} | {len(by_seed)} | {mean:.4f} | {told if name != 'base' else ''} |")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="output folder of a `macrec run`")
    parser.add_argument("--config", type=Path, action="append", default=[], help="of the data set")
    parser.add_argument("--variants", type=Path, default=VARIANTS, help="YAML: name, settings")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these variants")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of train")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--label", default="", help="name of the data in the lines")
    parser.add_argument("--table", action="store_true", help="print what FILE holds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
