"""Runs the whole DAG on a real data set, once per seed, and writes the results as one JSON file.

    PYTHONPATH=src:. python benchmarks/quality/run_dataset.py DATA/boxart --out DIR \\
        --config configs/boxart.yaml --encoders ENCODERS
    PYTHONPATH=src:. python benchmarks/quality/run_dataset.py DATA/scientific --out DIR \\
        --config configs/scientific.yaml --set preset=tiger --label tiger

Vectors in the source folder (*.npy) replace the encoders. All seeds share the artifact store under
--out, so results that do not depend on the seed are computed once.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import shared
from benchmarks.data import amazon


def main() -> None:
    options = _options()
    data = options.out / "data"
    amazon.convert(options.source, data)
    runs = [_run(options, data, seed) for seed in range(options.seeds)]
    result = {
        "benchmark": "run_dataset",
        "dataset": options.source.name,
        "config": " + ".join(path.name for path in options.config),
        "settings": options.set,
        **shared.describe_origin(),
        "device": f"{platform.machine()} CPU, {options.device}",
        "runs": runs,
    }
    label = f"-{options.label}" if options.label else ""
    target = options.results / f"{result['date']}-{options.source.name}{label}.json"
    shared.write_result(target, result)
    shared.print_line({"benchmark": "run_dataset", "wrote": str(target), "seeds": len(runs)})


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("source", type=Path, help="folder with *.inter.json and *.item.json")
    parser.add_argument(
        "--config", type=Path, action="append", required=True, help="repeated, the later one wins"
    )
    parser.add_argument("--encoders", type=Path, help="folder of `macrec sample --encoders`")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.NAME=VALUE")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--label", default="", help="part of the name of the result file")
    parser.add_argument("--device", default="2 cores", help="description in the result")
    parser.add_argument("--results", type=Path, default=shared.RESULTS)
    return parser.parse_args()


def _run(options: argparse.Namespace, data: Path, seed: int) -> dict[str, object]:
    out = options.out / f"seed-{seed}"
    command: list[object] = [
        *(sys.executable, "-m", "pipelines.cli.main", "run"),
        *(part for path in options.config for part in ("--config", path.resolve())),
        *("--items", data / "items.parquet", "--interactions", data / "interactions.parquet"),
        *("--out", out, "--store", options.out / "store"),
        *("--set", f"quantize.seed={seed}", "--set", f"train.seed={seed}"),
    ]
    for modality, (kind, path) in amazon.vectors_of(data, options.encoders).items():
        command += [f"--{'encoder' if kind == 'model' else 'vectors'}-{modality}", path]
    if (options.source / "images").is_dir():
        command += ["--images", options.source.resolve() / "images"]
    for assignment in options.set:
        command += ["--set", assignment]
    started = time.monotonic()
    subprocess.run([str(part) for part in command], check=True, cwd=shared.ROOT)
    metrics = json.loads((out / "metrics.json").read_text())
    return {"seed": seed, "seconds": round(time.monotonic() - started, 1), "metrics": metrics}


if __name__ == "__main__":
    main()
