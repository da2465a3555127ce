"""Measures the training speed of the generator against stock, in one process.

    PYTHONPATH=src:. python benchmarks/speed/train_speed.py --data DATA/instruments [--threads 2]

Blocks of training steps alternate between stock (benchmarks/speed/stock.py) and ours (the Trainer
of the stage train with its defaults). The first block of each is a warm-up. Both train all six
tasks with dropout 0.1 and AdamW, in float32 unless --precision is bfloat16.

A task row is one (source, target) pair with a loss. Stock reads single rows in random batches of
256. A step of ours reads 256 sources with two targets each, and 64 item pairs in both directions.

The output is one JSON line: rows per second of each (median and range over the blocks), and their
ratio. Item rows are short, and ours has more of them. `sequence_ratio` therefore counts only rows
of the sequence tasks. --profile prints the ten most expensive operators of ours instead.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import shared
from benchmarks.speed import generator_data, stock
from components.train import spec as train
from components.train.auto_sizes import resolve_sizes
from components.train.batches import NO_TASK, epoch_batches, make_batch
from components.train.generator_trainer import Trainer
from components.train.rows import training_data
from macrec.compute.device import choose_device
from macrec.core.settings import build
from macrec.generator.model import build_model


class Rows(NamedTuple):
    """Number of task rows in a block of steps."""

    sequence: int
    item: int


class Block(NamedTuple):
    """Speed of a block of steps: rows per second of all tasks, and of the sequence tasks."""

    rows: float
    sequence_rows: float
    steps: int


Side = Callable[[float], tuple[float, int, Rows]]
"""Trains for the given seconds and returns the elapsed seconds, the steps and the rows."""


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    data = generator_data.load(options.data)
    settings = {"precision": options.precision, "batch_size": options.batch}
    settings |= shared.read_assignments(options.set)
    config = resolve_sizes(build(train.Settings, settings), items=len(data.codes[0]))
    ours = _ours(data, config, device)
    if options.profile:
        print(_profile(ours, options.seconds, device))
        return
    sides = {"stock": _stock(data, config, device), "ours": ours}
    blocks: dict[str, list[Block]] = {name: [] for name in sides}
    for turn in range(options.rounds + 1):
        for name, side in sides.items():
            seconds, steps, rows = side(options.seconds if turn else 0.0)
            if turn:
                total = rows.sequence + rows.item
                blocks[name].append(Block(total / seconds, rows.sequence / seconds, steps))
    shared.print_line(_line(options, data, blocks) | shared.describe_origin(str(device)))


def _line(
    options: argparse.Namespace, data: generator_data.Data, blocks: dict[str, list[Block]]
) -> dict[str, object]:
    line: dict[str, object] = {
        "benchmark": "train_speed",
        "data": data.name,
        "precision": options.precision,
        "batch": options.batch,
        "settings": options.set,
    }
    medians: dict[str, dict[str, float]] = {}
    for name, measured in blocks.items():
        medians[name] = {}
        for figure in ("rows", "sequence_rows"):
            values = [getattr(block, figure) for block in measured]
            medians[name][figure] = statistics.median(values)
            line[f"{name}_{figure}_per_second"] = round(medians[name][figure], 1)
            line[f"{name}_{figure}_range"] = [round(min(values), 1), round(max(values), 1)]
        line[f"{name}_steps"] = [block.steps for block in measured]
    for figure, label in (("rows", "ratio"), ("sequence_rows", "sequence_ratio")):
        line[label] = round(medians["ours"][figure] / medians["stock"][figure], 2)
    return line | {"block_seconds": options.seconds, "rss_mb": shared.peak_memory_mb()}


def _timed(seconds: float, step: Callable[[], None], device: torch.device) -> tuple[float, int]:
    """Run steps until the time is over, at least three.

    Return the elapsed seconds and the number of steps.
    """
    started, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - started < seconds:
        step()
        steps += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, steps


def _stock(data: generator_data.Data, config: train.Settings, device: torch.device) -> Side:
    torch.manual_seed(0)
    vocabulary = data.vocabulary
    model = stock.build(vocabulary.levels, vocabulary.codebook_size, config.model_size)
    model.to(device)  # pyright: ignore[reportArgumentType]
    codes = {"text": data.codes[0], "image": data.codes[1]}
    tokens = stock.item_tokens(codes, vocabulary.codebook_size)  # pyright: ignore
    histories = [history.tolist() for history in data.histories()]
    rows = stock.task_rows(histories, len(data.codes[0]), config.max_history)
    share = sum(row.task.startswith("seq") for row in rows) / len(rows)
    training = stock.Training(
        model,
        stock.TaskRows(rows, tokens),
        config.batch_size,
        device,
        low_precision=device.type == "cuda" and config.precision == "bfloat16",
    )

    def block(seconds: float) -> tuple[float, int, Rows]:
        done: list[int] = []
        took, steps = _timed(seconds, lambda: done.append(training.step()), device)
        # The tasks of a batch are not recorded; on average the batches have the overall share.
        return took, steps, Rows(round(sum(done) * share), round(sum(done) * (1 - share)))

    return block


def _ours(data: generator_data.Data, config: train.Settings, device: torch.device) -> Side:
    torch.manual_seed(0)
    model = build_model(data.vocabulary, config.model_size)
    model.to(device).train()  # pyright: ignore[reportArgumentType]
    rows_data = training_data(
        data.vocabulary,
        data.sequences,
        data.codes,
        config.tasks,
        max_history=config.max_history,
        augment=config.augment,
        use_pairs=config.use_pairs,
    )
    trainer = Trainer(model, rows_data, config, device)
    pairs = min(config.item_pairs, len(rows_data.paired_items_P)) if rows_data.item_rows else 0
    item_rows = pairs * sum(task.startswith("item_") for task in config.tasks)
    batches = _batches(trainer, config.batch_size)

    def block(seconds: float) -> tuple[float, int, Rows]:
        used: list[np.ndarray] = []

        def step() -> None:
            used.append(next(batches))
            trainer.step(used[-1])

        took, steps = _timed(seconds, step, device)
        tasks = [make_batch(rows_data, trainer.rows, index_B).task_BG for index_B in used]
        sequence_rows = sum(int((task_BG != NO_TASK).sum()) for task_BG in tasks)
        return took, steps, Rows(sequence_rows, steps * item_rows)

    return block


def _batches(trainer: Trainer, batch_size: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        yield from epoch_batches(trainer.lengths_R, batch_size, rng)


def _profile(side: Side, seconds: float, device: torch.device) -> str:
    from torch.profiler import ProfilerActivity, profile

    side(0.0)
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=activities) as profiler:
        side(seconds)
    by = f"self_{device.type}_time_total"
    return profiler.key_averages().table(sort_by=by, row_limit=10, max_name_column_width=50)


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with published codes; default random")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    shared.add_settings_flag(parser, "train")
    shared.add_threads_flag(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
