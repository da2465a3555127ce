"""Measures tokenizers on the vectors of a finished run, without a generator.

    PYTHONPATH=src:. python benchmarks/quality/quantizer.py RUN_OUT --seeds 5 \\
        --tokenizers benchmarks/quality/tokenizers.yaml

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
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from benchmarks import shared
from components.quantize import spec as quantize
from components.resolve_collisions import spec as resolve
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.core.settings import build
from macrec.data.columns import codes_matrix
from macrec.tokenizer.prefix_lift import consecutive_pairs, prefix_lift

LABELS: dict[Literal["training", "validation"], str] = {
    "training": "lift",
    "validation": "validation_lift",
}
TOKENIZERS = Path(__file__).with_name("tokenizers.yaml")


def main() -> None:
    options = _options()
    base = shared.read_assignments(options.base)
    tokenizers = yaml.safe_load(options.tokenizers.read_text())
    names = options.only or list(tokenizers)
    jobs = [
        (options.run, name, base | (tokenizers[name] or {}), seed)
        for seed in range(options.seeds)
        for name in names
    ]
    header = {"benchmark": "quantizer", "dataset": options.label, "base": base}
    header |= shared.describe_origin(threads=1)
    if options.results:
        options.results.write_text("")
    with ProcessPoolExecutor(options.jobs) as pool:
        for figures in pool.map(_measure, jobs):
            shared.print_line(header | figures)
            if options.results:
                shared.append_line(options.results, header | figures)


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("run", type=Path, help="--out folder of a finished `macrec run`")
    parser.add_argument("--tokenizers", type=Path, default=TOKENIZERS)
    parser.add_argument("--only", nargs="*", help="names of tokenizers; default all")
    shared.add_settings_flag(parser, "quantize", "--base")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--label", default="", help="name of the data set")
    parser.add_argument("--results", type=Path, help="file for the lines")
    return parser.parse_args()


def _measure(job: tuple[Path, str, dict[str, Any], int]) -> dict[str, Any]:
    torch.set_num_threads(1)
    run, name, settings, seed = job
    started = time.monotonic()
    figures: dict[str, Any] = {"tokenizer": name, "seed": seed, "settings": settings}
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures["metrics"] = _tokenize(run, settings | {"seed": seed}, Path(folder))
        except UserError as error:  # a collapsed codebook is a result too
            figures["error"] = str(error)
    return figures | {"seconds": round(time.monotonic() - started, 1)}


def _tokenize(run: Path, settings: dict[str, Any], folder: Path) -> dict[str, float]:
    inputs = quantize.Inputs(
        text_embeddings=shared.latest_artifact(run, "embed-text", "text_embeddings"),
        image_embeddings=shared.latest_artifact(run, "embed-image", "image_embeddings"),
        history_embeddings=shared.latest_artifact(run, "embed-histories", "history_embeddings"),
        pseudo_labels=shared.latest_artifact(run, "pseudo-label", "pseudo_labels"),
    )
    execution = quantize.Execution(device="cpu")
    config = build(quantize.Settings, settings)
    quantized = shared.run_stage(quantize.STAGE, config, inputs, folder, execution)
    resolved = shared.run_stage(
        resolve.STAGE,
        resolve.Settings(),
        resolve.Inputs(
            items=shared.latest_artifact(run, "prepare-data", "items"),
            latents=quantized.artifact("latents"),
            quantizer=quantized.artifact("quantizer"),
        ),
        folder,
        resolve.Execution(),
    )
    sequences = shared.latest_artifact(run, "prepare-data", "sequences")
    return (
        quantized.metrics | resolved.metrics | lifts(sequences, resolved.artifact("semantic_ids"))
    )


def lifts(sequences: Artifact, semantic_ids: Artifact) -> dict[str, float]:
    """Return text_lift_1, its error and so on, and the same for the validation pairs."""
    histories = sequences.table(["item_index"]).column(0).combine_chunks()
    items, offsets = np.asarray(histories.flatten()), np.asarray(histories.offsets)
    figures: dict[str, float] = {}
    for modality in ("text", "image"):
        codes_NL = codes_matrix(semantic_ids, f"{modality}_codes")
        for part, label in LABELS.items():
            pairs = consecutive_pairs(items, offsets, part)
            for depth, measured in enumerate(prefix_lift(codes_NL, pairs), 1):
                figures[f"{modality}_{label}_{depth}"] = measured.lift
                figures[f"{modality}_{label}_error_{depth}"] = measured.error
                figures[f"{modality}_{label}_rate_{depth}"] = measured.rate
    return figures


if __name__ == "__main__":
    main()
