"""Measures time and memory of the trie of random codes: build, save, memory-map, look up.

    PYTHONPATH=src:. python benchmarks/scale/trie_scale.py --items 10000000 --work DIR

Each phase runs in a process of its own. Memory is the peak resident memory of the process.
`base_mb` is the peak after torch is imported, before the tokens of the items are generated.
`build_peak_mb` includes the tokens. Lookups return the children of random nodes, 20 for each of 64
users. The script prints one JSON line.
"""

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import shared
from macrec.generator.trie import Trie

FIRST_TOKEN = 16
USERS, BEAMS, LOOKUPS = 64, 20, 50
Figures = dict[str, Any]


def memory_mb(field: str) -> int:
    """Return a memory field of this process in MB: VmHWM is its peak, VmRSS its current use."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) // 1000


def build(folder: Path, options: argparse.Namespace) -> Figures:
    """Build and save the trie."""
    base = memory_mb("VmHWM")
    rng = np.random.default_rng(options.seed)
    shape = (options.items, options.levels)
    tokens_NL = rng.integers(0, options.codebook_size, shape, dtype=np.int32)
    tokens_NL += FIRST_TOKEN + options.codebook_size * np.arange(options.levels, dtype=np.int32)
    started, started_cpu = time.perf_counter(), time.process_time()
    trie = Trie.build(tokens_NL)
    figures: Figures = {
        "build_seconds": round(time.perf_counter() - started, 2),
        "build_cpu_seconds": round(time.process_time() - started_cpu, 2),
        "base_mb": base,
        "tokens_mb": round(tokens_NL.nbytes / 1e6),
        "build_peak_mb": memory_mb("VmHWM"),
        "nodes": trie.depth_start[-1],
        "leaves": trie.leaves,
        "trie_mb": round(trie.bytes / 1e6),
    }
    started = time.perf_counter()
    trie.save(folder)
    return figures | {"save_seconds": round(time.perf_counter() - started, 2)}


def restrict(folder: Path, options: argparse.Namespace) -> Figures:
    """Restrict the trie to a random half of the items."""
    trie = Trie.load(folder)
    allowed_N = np.random.default_rng(options.seed).random(options.items) < 0.5
    started = time.perf_counter()
    trie.restrict(allowed_N)
    return {
        "restrict_half_seconds": round(time.perf_counter() - started, 2),
        "restrict_peak_mb": memory_mb("VmHWM"),
    }


def load(folder: Path, options: argparse.Namespace) -> Figures:
    """Memory-map the trie, then look up children at every depth."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    trie = Trie.load(folder)
    figures: Figures = {
        "load_seconds": round(time.perf_counter() - started, 4),
        "load_peak_mb": memory_mb("VmHWM"),
    }
    generator = torch.Generator().manual_seed(options.seed)
    per_second = []
    for depth in range(1, trie.levels):
        first, last = trie.depth_start[depth : depth + 2]
        nodes = torch.randint(first, last, (LOOKUPS, USERS, BEAMS), generator=generator)
        alive_BW = torch.ones(USERS, BEAMS, dtype=torch.bool)
        started = time.perf_counter()
        for node_BW in nodes:
            trie.children(node_BW, alive_BW)
        per_second.append(round(nodes.numel() / (time.perf_counter() - started)))
    return figures | {
        "lookups_per_second": per_second,
        "rss_after_lookups_mb": memory_mb("VmRSS"),
    }


def main() -> None:
    """Print one line."""
    parser = shared.make_parser(__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="the trie is written below it")
    options = parser.parse_args()
    folder = options.work / f"trie-{options.items}"
    figures: Figures = {
        "benchmark": "trie_scale",
        "items": options.items,
        "levels": options.levels,
        "codebook_size": options.codebook_size,
    }
    try:
        for phase in (build, load, restrict):
            figures |= shared.run_in_new_process(phase, folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 0))
    shared.print_line(figures | shared.describe_origin(threads=threads))


if __name__ == "__main__":
    main()
