"""Measures the cost of the cross-modal losses: the time of a training step with and without them.

    PYTHONPATH=src:. python benchmarks/speed/quantizer_speed.py [--items 6250] \\
        [--text 4096] [--image 768]

The network is that of the `paper` preset, the vectors are random and clustered. Three kinds of
measurements alternate: steps without the contrastive and alignment losses, steps with them, and the
search for positives. The search is compared with a Python loop over the batch, as in stock
implementations. The script prints the median of each figure as a JSON line.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks import shared
from components.quantize.data import Modality
from components.quantize.objective import other_labels
from components.quantize.quantizer_losses import find_pairs
from components.quantize.quantizer_trainer import Trainer
from components.quantize.spec import Settings
from components.run_form import preset_values, stage_values
from components.stages import QUANTIZE
from macrec.core.settings import build

CLASSES = 512


def main() -> None:
    options = _options()
    generator = torch.Generator().manual_seed(0)

    def modality(dim: int) -> Modality:
        label_N = torch.randint(CLASSES, (options.items,), generator=generator)
        centres = torch.randn(CLASSES, dim, generator=generator)
        vectors = centres[label_N] + torch.randn(options.items, dim, generator=generator)
        return Modality(vectors, torch.ones(options.items, dtype=torch.bool), label_N)

    catalogue = {"text": modality(options.text), "image": modality(options.image)}
    values = stage_values(preset_values("paper"), QUANTIZE)
    paper: Settings = build(Settings, values | {"codebook_init": "normal"})
    device = torch.device(options.device)
    near = {name: data.to(device) for name, data in catalogue.items()}
    plain = replace(paper, contrastive_weights=(), align_weight=0.0)
    trainers = {"without": Trainer(near, plain, device), "with": Trainer(near, paper, device)}
    rows = torch.randperm(options.items, generator=generator).split(1024)[:-1]
    batches = [{name: data.take(r, device) for name, data in near.items()} for r in rows]
    members = {name: _members(data.label_N.tolist()) for name, data in catalogue.items()}
    seconds: dict[str, list[float]] = {"without": [], "with": [], "find": [], "loop": []}
    for turn in range(options.rounds + 1):
        for batch, rows_B in zip(batches, rows, strict=True):
            timed: dict[str, Callable[[], object]] = {
                "without": lambda b=batch: trainers["without"].step(b),
                "with": lambda b=batch: trainers["with"].step(b),
                "find": lambda b=batch: [find_pairs(other_labels(b, name)) for name in b],
                "loop": lambda r=rows_B: [_loop(r.tolist(), m) for m in members.values()],
            }
            for name, call in timed.items():
                started = time.perf_counter()
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first round is a warm-up
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    origin = shared.describe_origin(str(device))
    for figure, value in {
        "step_without_losses_ms": medians["without"] * 1000,
        "step_with_losses_ms": medians["with"] * 1000,
        "ratio": medians["with"] / medians["without"],
        "positives_ms": medians["find"] * 1000,
        "positives_python_loop_ms": medians["loop"] * 1000,
    }.items():
        line = {"benchmark": "quantizer_speed", "figure": figure, "value": round(value, 4)}
        shared.print_line(line | origin)


def _members(labels: list[int]) -> dict[int, list[int]]:
    """Return all items with the same label as each item."""
    by_label: dict[int, list[int]] = {}
    for item, label in enumerate(labels):
        by_label.setdefault(label, []).append(item)
    return {item: by_label[label] for item, label in enumerate(labels)}


def _loop(items: list[int], members: dict[int, list[int]]) -> list[int]:
    """Look up one random positive for each row, item by item."""
    place = {item: row for row, item in enumerate(items)}
    positives: list[int] = []
    for row, item in enumerate(items):
        others = [place[i] for i in set(members[item]) if i in place and place[i] != row]
        positives.append(random.choice(others) if others else row)
    return positives


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--items", type=int, default=6250)
    parser.add_argument("--text", type=int, default=4096)
    parser.add_argument("--image", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
