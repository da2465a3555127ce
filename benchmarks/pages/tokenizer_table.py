"""Prints the results of benchmarks/quality/quantizer.py as a Markdown table.

    python benchmarks/pages/tokenizer_table.py \\
        benchmarks/results/2026-11-23-tokenizers-scientific.jsonl

Each cell is text / image, with mean and standard deviation over seeds. Rows are sorted by the lift
of two codes, averaged over both modalities.
--overview prints one table for all files, with this average and the mean collision rate per data
set.
"""

import json
import statistics
import sys
from pathlib import Path

COLUMNS = {
    "lift, 1 code": "lift_1",
    "lift, 2 codes": "lift_2",
    "lift, 2 codes, validation": "validation_lift_2",
    "collisions %": "collision_rate",
    "perplexity, level 0": "perplexity_0",
    "neighbours kept, 1 code %": "recall_1",
}


def read(path: Path) -> dict[str, list[dict]]:
    """Return the metrics of all seeds by tokenizer."""
    runs: dict[str, list[dict]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "metrics" in record:
            runs.setdefault(record["tokenizer"], []).append(record["metrics"])
    return runs


def overview(paths: list[Path]) -> str:
    """Return the lift and the collision rate of every tokenizer on every data set.

    Rows are sorted by the lift on the first data set.
    """
    sets = [read(path) for path in paths]
    names = [json.loads(path.read_text().splitlines()[0])["dataset"] for path in paths]
    lines = [f"| tokenizer | {' | '.join(f'{name} | collisions %' for name in names)} |"]
    lines.append("|---|" + "---|---|" * len(names))
    for name in sorted(sets[0], key=lambda n: -_lift(sets[0][n])):
        cells: list[str] = []
        for runs in sets:
            metrics = runs.get(name, [])
            rate = [(m["text_collision_rate"] + m["image_collision_rate"]) * 50 for m in metrics]
            cells += (
                [f"{_lift(metrics):.1f}", f"{statistics.fmean(rate):.0f}"] if metrics else ["", ""]
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(path: Path) -> str:
    """Return the table of one data set."""
    runs = read(path)
    lines = [f"| tokenizer | seeds | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    order = sorted(runs, key=lambda name: -_lift(runs[name]))
    for name in order:
        cells = [_cell(runs[name], metric) for metric in COLUMNS.values()]
        lines.append(f"| {name} | {len(runs[name])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _lift(metrics: list[dict]) -> float:
    return statistics.fmean((m["text_lift_2"] + m["image_lift_2"]) / 2 for m in metrics)


def _cell(metrics: list[dict], name: str) -> str:
    parts: list[str] = []
    for modality in ("text", "image"):
        factor = 100 if name in ("collision_rate", "recall_1") else 1
        values = [m[f"{modality}_{name}"] * factor for m in metrics]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        parts.append(f"{statistics.fmean(values):.1f}{spread}")
    return " / ".join(parts)


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:] if name != "--overview"]
    if "--overview" in sys.argv:
        print(overview(files))
    else:
        print("\n\n".join(table(path) for path in files))
