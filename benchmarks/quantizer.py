"""Measures tokenizers on the vectors of a finished run, without a generator.

    python benchmarks/quantizer.py RUN_OUT --tokenizers benchmarks/tokenizers.yaml --seeds 5

RUN_OUT is the --out folder of a `macrec run`. The script uses its text and image vectors,
pseudo-labels and sequences. It also uses the history vectors, unless the run had
embed_histories.dim=0. The YAML file maps names to settings of the stage quantize, which override
those of --base. Each measurement takes seconds to a minute.

For each name and seed, the script quantizes the items and resolves the collisions. It prints one
JSON line with the metrics of both stages and the prefix lift of consecutive items. The lift is
measured within the training part of the histories, and from its last item to the validation item.
Test items are never used.
"""

import argparse
import json
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.core.errors import UserError
from macrec.core.settings import build
from macrec.core.stage import Job
from macrec.data.columns import codes_matrix
from macrec.tokenizer.prefix_lift import consecutive_pairs, prefix_lift

ROOT = Path(__file__).parent.parent


def main() -> None:
    options = _options()
    base = dict(pair.split("=", 1) for pair in options.base)
    tokenizers = yaml.safe_load(options.tokenizers.read_text())
    chosen = options.only or list(tokenizers)
    jobs = [
        (options.run, name, base | (tokenizers[name] or {}), seed)
        for seed in range(options.seeds)
        for name in chosen
    ]
    header = {
        "benchmark": "quantizer",
        "dataset": options.label,
        "base": base,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }
    lines: list[str] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for figures in pool.map(_measure, jobs):
            lines.append(json.dumps(header | figures))
            print(lines[-1], flush=True)
    if options.results:
        options.results.write_text("\n".join(lines) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="--out folder of a finished `macrec run`")
    parser.add_argument("--tokenizers", type=Path, default=ROOT / "benchmarks/tokenizers.yaml")
    parser.add_argument("--only", nargs="*", help="names of tokenizers; default all")
    parser.add_argument("--base", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--label", default="", help="name of the data set")
    parser.add_argument("--results", type=Path, help="file for the lines")
    return parser.parse_args()


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def _measure(job: tuple[Path, str, dict[str, Any], int]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    run, name, settings, seed = job
    started = time.monotonic()
    found: dict[str, Any] = {"tokenizer": name, "seed": seed, "settings": settings}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found["metrics"] = _tokenize(run, settings | {"seed": seed}, Path(folder))
        except UserError as error:  # a collapsed codebook is a result too
            found["error"] = str(error)
    return found | {"seconds": round(time.monotonic() - started, 1)}


def artifact(run: Path, stage: str, name: str) -> Artifact:
    """Return an artifact of the latest run in the folder."""
    folders = sorted(run.glob(f"runs/*/{stage}/{name}"))
    if not folders:
        raise UserError(f"{run}: no finished run here (no runs/*/{stage}/{name})")
    return Artifact.open(folders[-1])


def _tokenize(run: Path, settings: dict[str, Any], folder: Path) -> dict[str, float]:
    from components.quantize import spec as quantize
    from components.resolve_collisions import spec as resolve

    def outputs(kind: Any, **made: Any) -> Any:
        for output in made.values():
            output.prepare()
        return kind(**made)

    made = outputs(
        quantize.Outputs,
        latents=DatasetOutput(folder / "latents"),
        quantizer=FolderOutput(folder / "quantizer"),
    )
    inputs = quantize.Inputs(
        text_embeddings=artifact(run, "embed-text", "text_embeddings"),
        image_embeddings=artifact(run, "embed-image", "image_embeddings"),
        history_embeddings=artifact(run, "embed-histories", "history_embeddings"),
        pseudo_labels=artifact(run, "pseudo-label", "pseudo_labels"),
    )
    config = build(quantize.Settings, settings)
    metrics = quantize.STAGE.run(
        Job(
            settings=config, inputs=inputs, outputs=made, execution=quantize.Execution(device="cpu")
        )
    )
    for output in vars(made).values():
        output.commit({})
    resolved = outputs(resolve.Outputs, semantic_ids=DatasetOutput(folder / "ids"))
    metrics |= resolve.STAGE.run(
        Job(
            settings=resolve.Settings(),
            inputs=resolve.Inputs(
                items=artifact(run, "prepare-data", "items"),
                latents=Artifact.open(folder / "latents"),
                quantizer=Artifact.open(folder / "quantizer"),
            ),
            outputs=resolved,
            execution=resolve.Execution(),
        )
    )
    resolved.semantic_ids.commit({})
    return metrics | lifts(
        artifact(run, "prepare-data", "sequences"), Artifact.open(folder / "ids")
    )


def lifts(sequences: Artifact, semantic_ids: Artifact) -> dict[str, float]:
    """Return text_lift_1, its error and so on, and the same for the validation pairs."""
    histories = sequences.table(["item_index"]).column(0).combine_chunks()
    items, offsets = np.asarray(histories.flatten()), np.asarray(histories.offsets)
    figures: dict[str, float] = {}
    for modality in ("text", "image"):
        codes_NL = codes_matrix(semantic_ids, f"{modality}_codes")
        for part, label in (("training", "lift"), ("validation", "validation_lift")):
            pairs = consecutive_pairs(items, offsets, part)
            for depth, found in enumerate(prefix_lift(codes_NL, pairs), 1):
                figures[f"{modality}_{label}_{depth}"] = found.lift
                figures[f"{modality}_{label}_error_{depth}"] = found.error
                figures[f"{modality}_{label}_rate_{depth}"] = found.rate
    return figures


if __name__ == "__main__":
    main()
