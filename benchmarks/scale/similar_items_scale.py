"""Measures time and memory of the search for similar items, by size of the catalogue.

    OMP_NUM_THREADS=1 PYTHONPATH=src:. python benchmarks/scale/similar_items_scale.py \\
        --items 1000000

The script generates latents of 64 + 64 dimensions around 256 x 256 centres, some with many more
items than others. The codes identify the centres. It prints one JSON line.
"""

import time

import numpy as np

from benchmarks import shared
from macrec.ranking.similar_items import most_similar_items

CENTRES, DIMENSIONS, LEVELS = 256, 128, 4


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--items", type=int, required=True)
    items: int = parser.parse_args().items
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, CENTRES + 1) ** 0.5
    code_NL = generator.integers(0, CENTRES, (items, LEVELS))
    code_NL[:, 0] = generator.choice(CENTRES, items, p=share / share.sum())
    coarse, fine = generator.normal(size=(2, CENTRES, DIMENSIONS)).astype(np.float32)
    vector_ND = generator.standard_normal((items, DIMENSIONS), np.float32)
    vector_ND += 2 * coarse[code_NL[:, 0]] + fine[code_NL[:, 1]]
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    image_NL = code_NL[:, [1, 0, 2, 3]]
    started = time.process_time()
    alike_NN = most_similar_items(vector_ND, [code_NL, image_NL])
    line = {
        "benchmark": "similar_items_scale",
        "items": items,
        "pairs": int(alike_NN.nnz),
        "cpu_seconds": round(time.process_time() - started, 1),
        "rss_mb": shared.peak_memory_mb(),
    }
    shared.print_line(line | shared.describe_origin())


if __name__ == "__main__":
    main()
