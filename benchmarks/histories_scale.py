"""Measures time and memory of counting co-occurrences in histories, by size of the log.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python benchmarks/histories_scale.py \\
        --items 100000,1000000 --work DIR [--neighbours | --successors]

The script generates a log with about 30 interactions per item (51 below a million items). A user
prefers one group of 200 items; 30 % of the interactions are with random other groups. Then it runs
embed_histories in a process of its own and prints one JSON line per size. With --neighbours or
--successors it instead counts the neighbours or the successors that evaluate and recommend use.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import machine
from macrec.core.artifact import DatasetOutput
from macrec.data import schema

GROUP, LENGTH, STRAYS = 200, 17, 0.3
USERS_PER_ITEM = {1_000_000: 1.77}  # limits the largest log to 30 million interactions
DEFAULT_USERS_PER_ITEM = 3.0
COUNT = """
import pathlib, sys
from macrec.core.artifact import Artifact
from macrec.ranking.neighbours import Counts, Neighbours
from macrec.data.sequences import read_sequences

folder, items = pathlib.Path(sys.argv[1]), int(sys.argv[2])
histories = read_sequences(Artifact.open(folder / "sequences"), items)
count = {"neighbours": Counts.from_histories, "successors": Counts.from_successors}[sys.argv[3]]
Neighbours.counted(count(histories, items), 0.7)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", default="100000,1000000", help="sizes, with commas")
    parser.add_argument("--work", type=Path, required=True, help="1 GB is needed for 1M items")
    counted = parser.add_mutually_exclusive_group()
    for kind in ("neighbours", "successors"):
        told = f"count {kind}, no vectors"
        counted.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=told)
    options = parser.parse_args()
    for items in map(int, options.items.split(",")):
        folder = options.work / str(items)
        interactions = write_log(folder, items)
        if options.kind:
            command = [sys.executable, "-c", COUNT, str(folder), str(items), options.kind]
        else:
            command = [sys.executable, "-m", "components", "embed_histories"]
            for name in ("items", "sequences", "out"):
                command += [f"--{name}", str(folder / name)]
        told = {
            "benchmark": f"{options.kind or 'histories'}_scale",
            "items": items,
            "interactions": interactions,
        }
        print(json.dumps(told | measure(command) | machine.about("cpu")), flush=True)
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
        output = DatasetOutput(folder / name)
        output.prepare()
        with output.dataset(kind) as out:
            out.write(pa.table(columns, schema=kind))
        output.commit({"stage": "benchmark", "config": {}})
    return len(item_K)


def measure(command: list[str]) -> dict[str, object]:
    """Run the command and return its time and memory."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
        ),
        "rss_mb": round(after.ru_maxrss * 1024 / 1e6),  # maximum over all child processes so far
    }


if __name__ == "__main__":
    main()
