"""Measures time and memory of the quantizer, by size of the catalogue.

    python benchmarks/quantizer_scale.py --items 10000,100000,1000000 --work DIR

The script writes synthetic clustered vectors to disk, in the format of the embedding stages: text
with 4,096 and images with 768 components, in float16. One item in fifty has no image. Nine items in
ten have a history vector of 64 components, unless --without-histories is set. Then the stage runs
for one epoch in a process of its own.

There is one JSON line per size: seconds of each phase and of the whole process, and its peak
memory. `rss_mb` is the resident memory of the process. `rss_anon_mb` is what the process allocated
itself. Neither includes pages of files that are only in the cache of the operating system.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from macrec.core.artifact import DatasetOutput
from macrec.data import schema
from macrec.data.columns import vector_column

DIMS = {"text": 4096, "image": 768}
HISTORY_DIM = 64
INPUTS = ("text_embeddings", "image_embeddings", "history_embeddings", "pseudo_labels")
CLUSTERS, FACTORS = 512, 64
ROWS_AT_ONCE = 8_192
PHASE = re.compile(r"quantize: (?P<phase>.+) took (?P<seconds>[\d.]+) s \((?P<busy>[\d.]+) s of")
PROVENANCE = {"stage": "benchmark", "config": {}}


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    for items in options.items:
        folder = options.work / str(items)
        if not (folder / "pseudo_labels" / "manifest.json").is_file():
            write_catalogue(folder, items, histories=options.histories)
        print(json.dumps(measure(folder, items, options.set)), flush=True)
        if not options.keep:
            shutil.rmtree(folder)


def write_catalogue(folder: Path, items: int, *, histories: bool) -> None:
    """Write embeddings and pseudo-labels of a synthetic catalogue in chunks."""
    rng = np.random.default_rng(items)
    cluster_N = rng.integers(CLUSTERS, size=items)
    present = {"text": np.ones(items, bool), "image": np.arange(items) % 50 != 7}
    for name, dim in DIMS.items():
        output = DatasetOutput(folder / f"{name}_embeddings")
        output.prepare()
        kind = schema.embeddings(dim, pa.float16())
        centres_KD = rng.standard_normal((CLUSTERS, dim), dtype=np.float32)
        factors_FD = rng.standard_normal((FACTORS, dim), dtype=np.float32) / FACTORS**0.5
        with output.dataset(kind) as out:
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
                out.write(pa.table(columns, schema=kind))
        output.commit(PROVENANCE)
    write_histories(folder / "history_embeddings", cluster_N, rng, met=histories)
    output = DatasetOutput(folder / "pseudo_labels")
    output.prepare()
    with output.dataset(schema.PSEUDO_LABELS) as out:
        index = pa.array(np.arange(items, dtype=np.int32))
        labels = [pa.array(cluster_N.astype(np.int32), mask=~present[name]) for name in DIMS]
        out.write(pa.table([index, *labels], schema=schema.PSEUDO_LABELS))
    output.commit(PROVENANCE)


def write_histories(
    path: Path, cluster_N: np.ndarray, rng: np.random.Generator, *, met: bool
) -> None:
    """Write history vectors that follow the clusters of the items."""
    items = len(cluster_N)
    output = DatasetOutput(path)
    output.prepare()
    kind = schema.histories(HISTORY_DIM)
    centres_KH = rng.standard_normal((CLUSTERS, HISTORY_DIM), dtype=np.float32)
    with output.dataset(kind) as out:
        for start in range(0, items, ROWS_AT_ONCE):
            index_B = np.arange(start, min(start + ROWS_AT_ONCE, items), dtype=np.int32)
            noise_BH = rng.standard_normal((len(index_B), HISTORY_DIM), dtype=np.float32)
            vector_BH = centres_KH[cluster_N[index_B]] + noise_BH
            vector_BH /= np.linalg.norm(vector_BH, axis=1, keepdims=True)
            met_B = np.where(index_B % 10, 20, 0) if met else np.zeros(len(index_B))
            columns = [
                pa.array(index_B),
                pa.array([f"item-{k}" for k in index_B]),
                vector_column(vector_BH, met_B > 0),
                pa.array(met_B.astype(np.int32)),
            ]
            out.write(pa.table(columns, schema=kind))
    output.commit(PROVENANCE)


def measure(folder: Path, items: int, settings: dict[str, str]) -> dict[str, Any]:
    """Run the stage for one epoch and return its time and memory."""
    flags = {"epochs": "1", "min_perplexity_share": "0"} | settings
    command = [sys.executable, "-m", "components", "quantize", "--out", str(folder / "out")]
    for name in INPUTS:
        command += [f"--{name.replace('_', '-')}", str(folder / name)]
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", value]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    told = os.environ | {"MACREC_PROGRESS_SECONDS": "0"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=told) as process:
        memory = Memory(process.pid)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            print(round(time.monotonic() - started, 1), line.rstrip(), file=sys.stderr)
            if found := PHASE.search(line):
                memory.end_phase(found["phase"])
        memory.end()
    if process.returncode:
        raise SystemExit(f"the stage failed with exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    on_disk = sum(p.stat().st_size for p in folder.glob("*_embeddings/*.parquet"))
    return {
        "benchmark": "quantizer_scale",
        "items": items,
        "components": DIMS,
        "settings": flags,
        "disk_gb": round(on_disk / 1e9, 2),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(busy, 1),
        "phases": phases(lines, memory),
        **{f"{name}_mb": round(value / 1e6) for name, value in memory.peak.items()},
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 0)),
        "device": f"{platform.machine()} CPU",
    }


def phases(lines: list[str], memory: "Memory") -> dict[str, dict[str, float]]:
    """Return the wall-clock seconds, the CPU seconds and the peak memory of each phase."""
    return {
        m["phase"]: {
            "seconds": float(m["seconds"]),
            "cpu_seconds": float(m["busy"]),
            "rss_mb": round(memory.phases[m["phase"]] / 1e6),
        }
        for m in map(PHASE.search, lines)
        if m
    }


class Memory:
    """Monitors the memory of a process; the peaks are in bytes."""

    def __init__(self, pid: int) -> None:
        self._status, self.peak = Path(f"/proc/{pid}/status"), {"rss": 0, "rss_anon": 0}
        self.phases: dict[str, int] = {}
        self._since = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        names = {"VmHWM": "rss", "RssAnon": "rss_anon"}  # VmHWM is a peak already
        while not self._ended.wait(0.1):
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            for field, _, value in (line.partition(":") for line in lines):
                size = int(value.split()[0]) * 1024 if value.endswith("kB") else 0
                if field == "VmRSS":
                    self._since = max(self._since, size)
                if field in names:
                    self.peak[names[field]] = max(self.peak[names[field]], size)

    def end_phase(self, name: str) -> None:
        """Assign the peak since the end of the previous phase to this phase."""
        self.phases[name], self._since = self._since, 0

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", default="10000,100000,1000000", help="sizes, with commas")
    parser.add_argument("--work", type=Path, required=True, help="20 GB are needed for 1M items")
    parser.add_argument("--without-histories", dest="histories", action="store_false")
    parser.add_argument("--keep", action="store_true", help="keep the vectors for the next run")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings")
    options = parser.parse_args()
    options.items = [int(size) for size in options.items.split(",")]
    options.set = dict(setting.split("=", 1) for setting in options.set)
    return options


if __name__ == "__main__":
    main()
