"""Measures time and memory of counting co-occurrences in histories, by size of the log.

    OMP_NUM_THREADS=1 PYTHONPATH=src:. python benchmarks/scale/histories_scale.py \\
        --items 100000,1000000 --work DIR [--neighbours | --successors]

The script generates a log with about 30 interactions per item (51 below a million items). A user
prefers one group of 200 items; 30 % of the interactions are with random other groups. Then it runs
embed_histories in a process of its own and prints one JSON line per size. With --neighbours or
--successors it instead counts the neighbours or the successors that evaluate and recommend use.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import shared
from components.embed_histories.spec import STAGE, Execution, Inputs, Settings
from macrec.core.artifact import Artifact
from macrec.data import schema
from macrec.data.sequences import read_sequences
from macrec.ranking.neighbours import Counts, Neighbours

GROUP, LENGTH, STRAYS = 200, 17, 0.3
USERS_PER_ITEM = {1_000_000: 1.77}  # limits the largest log to 30 million interactions
DEFAULT_USERS_PER_ITEM = 3.0
COUNTS = {"neighbours": Counts.from_histories, "successors": Counts.from_successors}


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--items", default="100000,1000000", help="sizes, separated by commas")
    parser.add_argument("--work", type=Path, required=True, help="1 GB is needed for 1M items")
    kinds = parser.add_mutually_exclusive_group()
    for kind in COUNTS:
        text = f"count {kind} instead of making vectors"
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    options = parser.parse_args()
    for items in map(int, options.items.split(",")):
        folder = options.work / str(items)
        line = {
            "benchmark": f"{options.kind or 'histories'}_scale",
            "items": items,
            "interactions": write_log(folder, items),
        }
        measured = shared.run_in_new_process(measure, folder, items, options.kind)
        shared.print_line(line | measured | shared.describe_origin())
        shutil.rmtree(folder)


def write_log(folder: Path, items: int) -> int:
    """Write the artifacts items and sequences; return the number of interactions."""
    rng = np.random.default_rng(items)
    users = int(items * USERS_PER_ITEM.get(items, DEFAULT_USERS_PER_ITEM))
    length_U = rng.poisson(LENGTH - 3, users) + 3
    group_K = np.repeat(rng.integers(0, items // GROUP, users), length_U)
    stray_K = rng.random(len(group_K)) < STRAYS
    group_K[stray_K] = rng.integers(0, items // GROUP, int(stray_K.sum()))
    within_K = (rng.random(len(group_K)) ** 2 * GROUP).astype(np.int64)  # skewed popularity
    item_K = pa.array((group_K * GROUP + within_K).astype(np.int32))
    offset_U1 = np.concatenate([[0], np.cumsum(length_U)]).astype(np.int32)
    index = np.arange(items, dtype=np.int32)
    ids = [str(item) for item in index]
    nothing = [""] * items
    tables = {
        "items": (
            schema.ITEMS,
            [index, ids, nothing, nothing, pa.nulls(items, pa.string()), np.zeros(items, bool)],
        ),
        "sequences": (
            schema.SEQUENCES,
            [
                [str(user) for user in range(users)],
                pa.ListArray.from_arrays(offset_U1, item_K),
                pa.nulls(users, pa.list_(pa.int64())),
            ],
        ),
    }
    for name, (kind, columns) in tables.items():
        shared.write_dataset(folder / name, kind, columns)
    return len(item_K)


def measure(folder: Path, items: int, kind: str | None) -> dict[str, Any]:
    """Count or make the vectors, and return the time and memory of this process."""
    started, cpu_started = time.monotonic(), time.process_time()
    sequences = Artifact.open(folder / "sequences")
    if kind:
        Neighbours.from_counts(COUNTS[kind](read_sequences(sequences, items), items), 0.7)
    else:
        inputs = Inputs(items=Artifact.open(folder / "items"), sequences=sequences)
        shared.run_stage(STAGE, Settings(), inputs, folder / "out", Execution())
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        "rss_mb": shared.peak_memory_mb(),
    }


if __name__ == "__main__":
    main()
