"""Measures time and memory of the collision resolution on a random catalogue.

    PYTHONPATH=src:. python benchmarks/scale/resolver_scale.py --items 1000000

The codewords of a level follow Zipf's law (`--skew`). There are therefore both many small groups
and prefixes with more items than codes. The script prints one JSON line per figure. The peak memory
is that of the whole process, including the latents.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np

from benchmarks import shared
from macrec.tokenizer.collisions import resolve_collisions
from macrec.tokenizer.measures import collision_rate, group_sizes


def catalogue(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes [N, L], latents [N, D] and codebooks [L, M, D].

    The scale of the codebooks halves at each level.
    """
    rng = np.random.default_rng(options.seed)
    shape = (options.levels, options.codebook_size, options.dim)
    scale_L = 0.5 ** np.arange(options.levels + 1, dtype=np.float32)
    codebooks_LMD = rng.normal(size=shape).astype(np.float32) * scale_L[:-1, None, None]
    share_M = 1 / np.arange(1, options.codebook_size + 1) ** options.skew
    draws_NL = rng.random((options.items, options.levels))
    codes_NL = np.searchsorted(np.cumsum(share_M / share_M.sum()), draws_NL).astype(np.int32)
    codes_NL = np.minimum(codes_NL, options.codebook_size - 1)
    latents_ND = rng.standard_normal((options.items, options.dim), np.float32) * scale_L[-1]
    for codes_N, codebook_MD in zip(codes_NL.T, codebooks_LMD, strict=True):
        latents_ND += codebook_MD[codes_N]
    return codes_NL, latents_ND, codebooks_LMD


def figures(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield the figures in the order of measurement."""
    codes_NL, latents_ND, codebooks_LMD = catalogue(options)
    ids = [f"item{k:09d}" for k in range(options.items)]
    yield "items", options.items
    yield "collision_rate_before", round(collision_rate(codes_NL), 4)
    yield "largest_group", len(group_sizes(codes_NL)) - 1
    started, started_cpu = time.perf_counter(), time.process_time()
    resolved = resolve_collisions(codes_NL, latents_ND, codebooks_LMD, ids)
    yield "seconds", round(time.perf_counter() - started, 1)
    yield "cpu_seconds", round(time.process_time() - started_cpu, 1)
    yield "peak_rss_mb", shared.peak_memory_mb()
    yield "moved", int((resolved.moved_level >= 0).sum())
    above = (resolved.moved_level >= 0) & (resolved.moved_level < options.levels - 1)
    yield "moved_above_last_level", int(above.sum())
    yield "collision_rate_after", collision_rate(resolved.codes)


def main() -> None:
    """Print one line per figure."""
    parser = shared.make_parser(__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--skew", type=float, default=1.125, help="exponent of Zipf's law")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = list(figures(options))
    origin = shared.describe_origin()
    for name, value in measured:
        shared.print_line({"benchmark": "resolver", "figure": name, "value": value} | origin)


if __name__ == "__main__":
    main()
