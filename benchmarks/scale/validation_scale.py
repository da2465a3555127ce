"""Measures time and memory of the checks of `macrec validate`, by size of the data.

    PYTHONPATH=src:. python benchmarks/scale/validation_scale.py --work DIR \\
        [--rows 5000000] [--items 1000000] [--files 100000]

The script writes a catalogue in which every item names its own picture, a log with times, and a
folder with some of the pictures as empty files. It prints one JSON line. Files of an earlier call
with the same sizes are reused.
"""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import shared
from components.prepare_data.picture_paths import read_picture_paths
from components.prepare_data.spec import Settings
from components.prepare_data.validation import validate
from macrec.data.picture_files import search_pictures

PER_FOLDER = 1_000  # pictures
BATCH = 1_000_000  # rows of the log in memory


def write_data(folder: Path, rows: int, items: int, files: int) -> tuple[Path, Path, Path]:
    """Write the data and return the paths of catalogue, log and pictures."""
    place = folder / f"{rows}-{items}-{files}"
    catalogue, log, pictures = (place / n for n in ("items.parquet", "log.parquet", "pictures"))
    if (place / "finished").exists():
        return catalogue, log, pictures
    pictures.mkdir(parents=True, exist_ok=True)
    ids = [f"item-{k}" for k in range(items)]
    paths = [f"{k // PER_FOLDER}/{k}.jpg" for k in range(items)]
    texts = [f"A title of item {k} &amp; more" for k in range(items)]
    pq.write_table(pa.table({"item_id": ids, "title": texts, "image": paths}), catalogue)
    for k in range(files):
        path = pictures / paths[k]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    generator = np.random.default_rng(0)
    names = pa.array(ids)
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        user_B = generator.integers(0, max(rows // 10, 1), count)
        table = pa.table(
            {
                "user_id": pa.array(user_B).cast(pa.string()),
                "item_id": names.take(pa.array(generator.integers(0, items, count))),
                "timestamp": generator.integers(1_500_000_000, 1_700_000_000, count),
            }
        )
        writer = writer or pq.ParquetWriter(log, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
    (place / "finished").touch()
    return catalogue, log, pictures


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    flags = parser.parse_args()
    catalogue, log, pictures = write_data(flags.work, flags.rows, flags.items, flags.files)
    config, started = Settings(min_interactions=0), time.monotonic()
    report = validate(config, catalogue, log)
    validated = time.monotonic()
    found = read_picture_paths(config, catalogue)
    search = search_pictures(pictures, found.paths.drop_null().unique().to_pylist())
    search.problem(0.1)
    line = {
        "benchmark": "validation_scale",
        "rows": flags.rows,
        "items": flags.items,
        "files": flags.files,
        "problems": len(report.problems),
        "absent_pictures": len(search.absent),
        "validate_seconds": round(validated - started, 1),
        "picture_seconds": round(time.monotonic() - validated, 1),
        "rss_mb": shared.peak_memory_mb(),
    }
    shared.print_line(line | shared.describe_origin())


if __name__ == "__main__":
    main()
