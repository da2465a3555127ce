"""Prints the tables of docs/scale.md: bytes, operations and GPU hours of each stage by items.

The script runs no stage. MEASURED contains figures of docs/results.md and docs/generator.md. All
other figures are computed from them, from the model sizes and from assumptions. Each assumption is
a flag:

    python benchmarks/scale/scale_plan.py [--gpu-tflops 121 --encoder-utilisation 0.4 ...]
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

ITEMS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
L4 = 121
"""TFLOPS of an NVIDIA L4 in bfloat16 without sparsity. The default is an H100 with 989."""
DAY = 24.0
"""Timeout of a task in hours (pipelines/dag/tasks.py)."""

MEASURED = {
    "history_cpu_seconds_per_interaction": 134.7 / 30_086_012,
    "resolve_cpu_seconds_per_item": 10 / 1_000_000,
    "trie_bytes_per_item": 265e6 / 10_000_000,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Assumptions of the plan."""

    interactions_per_item: float = 30
    history_length: float = 10
    text_parameters: float = 0.6e9
    text_tokens: float = 64
    text_dim: int = 1024
    image_parameters: float = 0.3e9
    image_patches: float = 257
    image_dim: int = 1024
    image_kib: float = 50
    gpu_tflops: float = 989
    encoder_utilisation: float = 0.4
    quantizer_utilisation: float = 0.001
    train_utilisation: float = 0.02
    decode_utilisation: float = 0.005
    disk_gb_per_second: float = 1
    cpu_gflops: float = 20
    item_visits: float = 2e8
    row_visits: float = 2e9
    levels: int = 4
    codewords: int = 256
    clusters: int = 512
    beams: int = 20

    def users(self, items: float) -> float:
        """Return the number of histories."""
        return items * self.interactions_per_item / self.history_length

    def rows(self, items: float) -> float:
        """Return the number of training rows per epoch.

        Each item is a target, except the first and the last two of a history.
        """
        return self.users(items) * (self.history_length - 3)

    def quantizer_epochs(self, items: float) -> float:
        """Return the default of 200 epochs, or fewer if `item_visits` is reached earlier."""
        return max(2, min(200, self.item_visits / items))

    def generator_epochs(self, items: float) -> float:
        """Return the default of 40 epochs, or fewer if `row_visits` is reached earlier."""
        return max(1, min(40, self.row_visits / self.rows(items)))


# The default T5: width 128, 6 heads of 64, feed-forward 1024, 4 + 4 layers.
_ATTENTION, _FORWARD = 4 * 128 * 384, 2 * 128 * 1024
ENCODER = 4 * (_ATTENTION + _FORWARD)
DECODER = 4 * (2 * _ATTENTION + _FORWARD)


def _network(plan: Plan) -> float:
    """Return the number of parameters of the default quantizer, for both modalities.

    Each MLP maps D + 64 to 256, 128 and 32 dimensions and back.
    """
    inputs = plan.text_dim + plan.image_dim + 2 * 64
    return 2 * (inputs * 256 + 2 * (256 * 128 + 128 * 32))


def _train_flops(plan: Plan, items: float) -> float:
    """Return the operations of the forward and backward passes: 6 per parameter and token.

    A history has half of its final length on average.
    """
    tokens = plan.levels * plan.history_length / 2
    row = 2 * (ENCODER * tokens + 2 * DECODER * plan.levels)  # two sources with two targets each
    return 6 * row * plan.rows(items) * plan.generator_epochs(items)


def _decode_flops(plan: Plan, items: float) -> float:
    """Return the operations of decoding: both searches and cross-scoring.

    Cross-scoring scores the candidates of each search under the other modality.
    """
    search = ENCODER * plan.levels * plan.history_length
    search += DECODER * (1 + (plan.levels - 1) * plan.beams)  # one beam at the first level
    scoring = DECODER * plan.levels * plan.beams
    return 2 * 2 * (search + scoring) * plan.users(items)


# GPU stages: name -> (floating point operations, kind of utilisation of the peak).
GPU_STAGES: dict[str, tuple[Callable[[Plan, float], float], str]] = {
    "embed_text": (lambda p, n: 2 * p.text_parameters * p.text_tokens * n, "encoder"),
    "embed_image": (lambda p, n: 2 * p.image_parameters * p.image_patches * n, "encoder"),
    "quantize": (
        lambda p, n: (
            n
            * p.quantizer_epochs(n)
            * (6 * _network(p) + 2 * 2 * p.levels * p.codewords * 32)  # plus distances to codewords
        ),
        "quantizer",
    ),
    "train": (_train_flops, "train"),
    "evaluate": (_decode_flops, "decode"),
    "recommend": (_decode_flops, "decode"),
}
# Amount of work of each GPU stage, in the units of UNITS.
DONE: dict[str, Callable[[Plan, float], float]] = {
    "embed_text": lambda p, n: n,
    "embed_image": lambda p, n: n,
    "quantize": lambda p, n: n * p.quantizer_epochs(n),
    "train": lambda p, n: p.rows(n) * p.generator_epochs(n),
    "evaluate": lambda p, n: p.users(n),
    "recommend": lambda p, n: p.users(n),
}
UNITS = {
    "embed_text": "items",
    "embed_image": "items",
    "quantize": "items, each once an epoch",
    "train": "rows, each for two targets",
    "evaluate": "users",
    "recommend": "users",
}
# CPU stages: hours of one core.
CPU_STAGES: dict[str, Callable[[Plan, float], float]] = {
    "embed_histories": lambda p, n: (
        n * p.interactions_per_item * MEASURED["history_cpu_seconds_per_interaction"] / 3600
    ),
    "pseudo_label": lambda p, n: (  # 5 passes of mini-batch k-means, then the labels
        6 * 2 * n * p.clusters * (p.text_dim + p.image_dim) / (p.cpu_gflops * 1e9) / 3600
    ),
    "resolve_collisions": lambda p, n: n * MEASURED["resolve_cpu_seconds_per_item"] / 3600,
}
BYTES: dict[str, Callable[[Plan, float], float]] = {
    "pictures (read once)": lambda p, n: n * p.image_kib * 1024,
    "interactions, 12 B each": lambda p, n: n * p.interactions_per_item * 12,
    "text and image vectors, float32": lambda p, n: n * (p.text_dim + p.image_dim) * 4,
    "history vectors": lambda p, n: n * 64 * 4,
    "latents and codes": lambda p, n: n * 2 * (32 * 4 + p.levels * 2),
    "trie in memory, one modality": lambda p, n: n * MEASURED["trie_bytes_per_item"],
    "histories in memory, each process of train": lambda p, n: (
        n * p.interactions_per_item * 4 + p.users(n) * 8
    ),
    "lists of 20 for every user": lambda p, n: p.users(n) * 20 * 8,
}


def gpu_hours(plan: Plan, stage: str, items: float) -> float:
    """Return the hours of one GPU."""
    operations, kind = GPU_STAGES[stage]
    share = getattr(plan, f"{kind}_utilisation")
    return operations(plan, items) / (plan.gpu_tflops * 1e12 * share) / 3600


def lines(plan: Plan) -> Iterator[str]:
    """Yield the tables as Markdown."""
    yield f"What one GPU of {plan.gpu_tflops:g} TFLOPS does in a second:"
    yield ""
    yield "| stage | share of the peak | rate |"
    yield "|---|---|---|"
    for name, (_, kind) in GPU_STAGES.items():
        rate = DONE[name](plan, ITEMS[0]) / (gpu_hours(plan, name, ITEMS[0]) * 3600)
        share = getattr(plan, f"{kind}_utilisation")
        yield f"| {name} | {share:.1%} | {_count(rate)} {UNITS[name]} |"
    yield ""
    yield "Sizes:"
    yield ""
    yield from _table("what", {"users": plan.users, "training rows of an epoch": plan.rows}, _count)
    epochs = {"quantize, epochs": plan.quantizer_epochs, "train, epochs": plan.generator_epochs}
    yield from (f"| {n} | {' | '.join(f'{e(i):.3g}' for i in ITEMS)} |" for n, e in epochs.items())
    yield ""
    yield "Bytes:"
    yield ""
    yield from _table("what", {n: _of(plan, f) for n, f in BYTES.items()}, _bytes)
    yield ""
    yield "Floating point operations of the GPU stages:"
    yield ""
    work = {name: _of(plan, operations) for name, (operations, _) in GPU_STAGES.items()}
    yield from _table("stage", work, lambda value: f"{value:.1e}")
    yield ""
    yield f"Hours of one GPU of {plan.gpu_tflops:g} TFLOPS:"
    yield ""
    hours = {name: _hours_of(plan, name) for name in GPU_STAGES}
    yield from _table("stage", hours, _hours)
    yield f"| all | {' | '.join(_hours(sum(h(n) for h in hours.values())) for n in ITEMS)} |"
    yield f"| quantize, reading | {' | '.join(_hours(_reading(plan, n)) for n in ITEMS)} |"
    yield ""
    for tflops in (plan.gpu_tflops, L4):
        smaller = replace(plan, gpu_tflops=tflops)
        hours = {name: _hours_of(smaller, name) for name in GPU_STAGES}
        yield f"GPUs of {tflops:g} TFLOPS with which a stage is done within a day:"
        yield ""
        yield from _table("stage", hours, lambda value: f"{max(1, -(-value // DAY)):,.0f}")
        yield ""
    yield "Hours of one CPU core:"
    yield ""
    yield from _table("stage", {n: _of(plan, f) for n, f in CPU_STAGES.items()}, _hours)


def _of(plan: Plan, figure: Callable[[Plan, float], float]) -> Callable[[float], float]:
    return lambda items: figure(plan, items)


def _hours_of(plan: Plan, stage: str) -> Callable[[float], float]:
    return lambda items: gpu_hours(plan, stage, items)


def _reading(plan: Plan, items: float) -> float:
    """Return the hours of reading from disk in quantize, for vectors that exceed its memory."""
    size = BYTES["text and image vectors, float32"](plan, items) + BYTES["history vectors"](
        plan, items
    )
    resident = size <= 16 * 2**30  # default of quantize.resident_gib
    read = 0 if resident else size * plan.quantizer_epochs(items)
    return read / (plan.disk_gb_per_second * 1e9) / 3600


def _table(
    head: str, rows: dict[str, Callable[[float], float]], shown: Callable[[float], str]
) -> Iterator[str]:
    yield f"| {head} | {' | '.join(_count(n) for n in ITEMS)} |"
    yield f"|---|{'---|' * len(ITEMS)}"
    for name, figure in rows.items():
        yield f"| {name} | {' | '.join(shown(figure(n)) for n in ITEMS)} |"


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def _hours(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for field in fields(Plan):
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            flag, type=type(field.default), default=field.default, help="%(default)s"
        )
    print("\n".join(lines(Plan(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
