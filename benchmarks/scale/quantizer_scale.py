"""Measures time and memory of the quantizer, by size of the catalogue.

    PYTHONPATH=src:. python benchmarks/scale/quantizer_scale.py --items 10000,100000,1000000 \\
        --work DIR

The script writes synthetic clustered vectors to disk, in the format of the embedding stages: text
with 4,096 and images with 768 components, in float16. One item in fifty has no image. Nine items in
ten have a history vector of 64 components, unless --without-histories is set. Then the stage runs
for one epoch in a process of its own.

There is one JSON line per size: seconds of each phase and of the whole process, and its peak
memory. `rss_mb` is the resident memory of the process. `rss_anon_mb` is what the process allocated
itself. Neither includes pages of files that are only in the cache of the operating system.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import shared
from components.quantize import data as quantize_data
from components.quantize.spec import STAGE, Execution, Inputs, Settings
from macrec.core.artifact import Artifact
from macrec.core.settings import build
from macrec.data import schema
from macrec.data.columns import vector_column

DIMS = {"text": 4096, "image": 768}
HISTORY_DIM = 64
INPUTS = ("text_embeddings", "image_embeddings", "history_embeddings", "pseudo_labels")
CLUSTERS, FACTORS = 512, 64
ROWS_AT_ONCE = 8_192
DEFAULTS = {"epochs": "1", "min_perplexity_share": "0"}


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--items", default="10000,100000,1000000", help="sizes, with commas")
    parser.add_argument("--work", type=Path, required=True, help="20 GB are needed for 1M items")
    parser.add_argument("--without-histories", dest="histories", action="store_false")
    parser.add_argument("--keep", action="store_true", help="keep the vectors for the next run")
    shared.add_settings_flag(parser, "quantize")
    options = parser.parse_args()
    settings = DEFAULTS | shared.read_assignments(options.set)
    options.work.mkdir(parents=True, exist_ok=True)
    for items in map(int, options.items.split(",")):
        folder = options.work / str(items)
        if not (folder / "pseudo_labels" / "manifest.json").is_file():
            write_catalogue(folder, items, histories=options.histories)
        on_disk = sum(p.stat().st_size for p in folder.glob("*_embeddings/*.parquet"))
        line = {
            "benchmark": "quantizer_scale",
            "items": items,
            "components": DIMS,
            "settings": settings,
            "disk_gb": round(on_disk / 1e9, 2),
            **shared.run_in_new_process(measure, folder, settings),
        }
        shared.print_line(line | shared.describe_origin())
        if not options.keep:
            shutil.rmtree(folder)


def write_catalogue(folder: Path, items: int, *, histories: bool) -> None:
    """Write embeddings and pseudo-labels of a synthetic catalogue in chunks."""
    rng = np.random.default_rng(items)
    cluster_N = rng.integers(CLUSTERS, size=items)
    present = {"text": np.ones(items, bool), "image": np.arange(items) % 50 != 7}
    for name, dim in DIMS.items():
        kind = schema.embeddings(dim, pa.float16())
        centres_KD = rng.standard_normal((CLUSTERS, dim), dtype=np.float32)
        factors_FD = rng.standard_normal((FACTORS, dim), dtype=np.float32) / FACTORS**0.5
        with shared.new_dataset(folder / f"{name}_embeddings", kind) as write:
            for start in range(0, items, ROWS_AT_ONCE):
                part = slice(start, min(start + ROWS_AT_ONCE, items))
                within_BF = rng.standard_normal((part.stop - start, FACTORS), dtype=np.float32)
                matrix_BD = centres_KD[cluster_N[part]] + within_BF @ factors_FD
                valid_B = present[name][part]
                columns = [
                    pa.array(np.arange(start, part.stop, dtype=np.int32)),
                    vector_column(matrix_BD.astype(np.float16), valid_B),
                    pa.array(np.where(valid_B, "ok", "missing").tolist()),
                ]
                write(pa.table(columns, schema=kind))
    write_histories(folder / "history_embeddings", cluster_N, rng, present=histories)
    index = pa.array(np.arange(items, dtype=np.int32))
    labels = [pa.array(cluster_N.astype(np.int32), mask=~present[name]) for name in DIMS]
    shared.write_dataset(folder / "pseudo_labels", schema.PSEUDO_LABELS, [index, *labels])


def write_histories(
    path: Path, cluster_N: np.ndarray, rng: np.random.Generator, *, present: bool
) -> None:
    """Write history vectors that follow the clusters of the items."""
    items = len(cluster_N)
    kind = schema.histories(HISTORY_DIM)
    centres_KH = rng.standard_normal((CLUSTERS, HISTORY_DIM), dtype=np.float32)
    with shared.new_dataset(path, kind) as write:
        for start in range(0, items, ROWS_AT_ONCE):
            index_B = np.arange(start, min(start + ROWS_AT_ONCE, items), dtype=np.int32)
            noise_BH = rng.standard_normal((len(index_B), HISTORY_DIM), dtype=np.float32)
            vector_BH = centres_KH[cluster_N[index_B]] + noise_BH
            vector_BH /= np.linalg.norm(vector_BH, axis=1, keepdims=True)
            met_B = np.where(index_B % 10, 20, 0) if present else np.zeros(len(index_B))
            columns = [
                pa.array(index_B),
                pa.array([f"item-{k}" for k in index_B]),
                vector_column(vector_BH, met_B > 0),
                pa.array(met_B.astype(np.int32)),
            ]
            write(pa.table(columns, schema=kind))


def measure(folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Run the stage and return the time and memory of this process, and those of each phase."""
    started = time.monotonic()
    memory, phases = Memory(), dict[str, dict[str, float]]()

    @contextmanager
    def measure_phase(phase: str) -> Iterator[None]:
        phase_started, cpu_started = time.monotonic(), time.process_time()
        yield
        phases[phase] = {
            "seconds": round(time.monotonic() - phase_started, 1),
            "cpu_seconds": round(time.process_time() - cpu_started, 1),
            "rss_mb": round(memory.restart_peak() / 1e6),
        }

    # The stage imports `timed` when it runs, which is after this line.
    quantize_data.log_duration = measure_phase
    artifacts: dict[str, Any] = {name: Artifact.open(folder / name) for name in INPUTS}
    inputs = Inputs(**artifacts)
    execution = build(Execution, settings)
    shared.run_stage(STAGE, build(Settings, settings), inputs, folder / "out", execution)
    memory.stop()
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "phases": phases,
        **{f"{name}_mb": round(value / 1e6) for name, value in memory.peaks.items()},
    }


class Memory:
    """Monitors the memory of this process; all peaks are in bytes."""

    def __init__(self) -> None:
        self.peaks = {"rss": 0, "rss_anon": 0}
        self._status, self._peak = Path(f"/proc/{os.getpid()}/status"), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        names = {"VmHWM": "rss", "RssAnon": "rss_anon"}  # VmHWM is a peak already
        while not self._stop.wait(0.1):
            for line in self._status.read_text().splitlines():
                field, _, value = line.partition(":")
                size = int(value.split()[0]) * 1024 if value.endswith("kB") else 0
                if field == "VmRSS":
                    self._peak = max(self._peak, size)
                if field in names:
                    self.peaks[names[field]] = max(self.peaks[names[field]], size)

    def restart_peak(self) -> int:
        """Return the peak resident memory since the last call."""
        peak, self._peak = self._peak, 0
        return peak

    def stop(self) -> None:
        """Stop monitoring."""
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main()
