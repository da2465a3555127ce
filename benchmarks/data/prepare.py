"""Prepares a real data set for `macrec bench --dataset`: histories and vectors.

    PYTHONPATH=src:. python benchmarks/data/prepare.py DATA/scientific OUT \\
        --config configs/scientific.yaml
    PYTHONPATH=src:. python benchmarks/data/prepare.py DATA/boxart OUT \\
        --config configs/boxart.yaml --encoders .cache/encoders

The script runs the first stages of the DAG with their settings from the configuration. Vectors in
the source folder (*.npy) replace the encoders.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks import shared
from benchmarks.data import amazon
from components.run_form import flatten, stage_values
from components.stages import stage_named
from pipelines.dag.config_file import read_config


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("source", type=Path, help="folder with *.inter.json and *.item.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--encoders", type=Path, help="folder of `macrec sample --encoders`")
    options = parser.parse_args()
    data, config = options.out / "data", flatten(read_config(options.config))
    rows = amazon.convert(options.source, data)
    vectors = amazon.vectors_of(data, options.encoders)
    log = {"catalog": data / "items.parquet", "interactions": data / "interactions.parquet"}
    _stage("prepare_data", options.out, log, config)
    for modality, (kind, path) in vectors.items():
        inputs = {"items": options.out / "items", kind: path}
        if (modality, kind) == ("image", "model"):
            inputs["images"] = options.source / "images"
        _stage(f"embed_{modality}", options.out, inputs, config)
    shared.print_line({"benchmark": "prepare", "wrote": str(options.out), **rows})


def _stage(name: str, out: Path, inputs: dict[str, Path], config: dict[str, object]) -> None:
    settings = stage_values(config, stage_named(name))
    flags = [f"--{n.replace('_', '-')}={value}" for n, value in inputs.items()]
    flags += [f"--set={n}={value}" for n, value in settings.items()]
    command = [sys.executable, "-m", "pipelines.cli.main", "stage", name, "--out", str(out), *flags]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
