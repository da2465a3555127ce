"""Prints results of benchmarks/quality/run_dataset.py as Markdown tables.

PYTHONPATH=src:. python benchmarks/pages/table.py [FILE.json ...]
"""

import json
import statistics
import sys
from pathlib import Path

from benchmarks.shared import RESULTS

SYSTEMS = {
    "popular": "most popular",
    "text": "text only, 20 beams",
    "text_wide": "text only, 40 beams",
    "image": "image only, 20 beams",
    "image_wide": "image only, 40 beams",
    "fused": "fused",
    "hybrid": "hybrid",
}
COLUMNS = ("hr_1", "hr_5", "hr_10", "ndcg_5", "ndcg_10", "mrr_10", "coverage_10")


def table(path: Path) -> str:
    """Return the table of one data set: means over seeds, with deviations for several seeds."""
    result = json.loads(path.read_text())
    evaluated = [run["metrics"]["evaluate"] for run in result["runs"]]
    names = [c.upper().replace("_", "@").replace("COVERAGE", "coverage") for c in COLUMNS]
    lines = [
        f"### {result['dataset']}",
        "",
        f"{result['date']}, commit {result['commit']}, {result['device']}, `{result['config']}`"
        + "".join(f", `{assignment}`" for assignment in result["settings"])
        + f"; {len(evaluated)} seed{'s' if len(evaluated) > 1 else ''}, "
        f"{evaluated[0]['users']:,.0f} test users, "
        f"{sum(run['seconds'] for run in result['runs']) / 60:.0f} minutes in all.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for system, label in SYSTEMS.items():
        if f"{system}_hr_10" not in evaluated[0]:  # a run on a single modality has no fused list
            continue
        cells = [_cell([e[f"{system}_{column}"] for e in evaluated]) for column in COLUMNS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(f"| random | | | {evaluated[0]['random_hr_10']:.4f} | | | | |")
    lines += ["", _codes(result)]
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def _codes(result: dict) -> str:
    parts = []
    for modality in ("text", "image"):
        resolved = [run["metrics"]["resolve_collisions"] for run in result["runs"]]
        if not resolved[0].get(f"{modality}_items"):
            continue
        before = statistics.fmean(r[f"{modality}_collision_rate_before"] for r in resolved)
        after = max(r[f"{modality}_collision_rate_after"] for r in resolved)
        parts.append(f"{modality} codes {before:.1%} before resolution, {after:.1%} after")
    chosen = [run["metrics"]["evaluate"].get("fusion_weight") for run in result["runs"]]
    weights = ", ".join(f"{weight:g}" for weight in chosen if weight is not None)
    fused = f" Fusion weight of the text score by seed: {weights}." if weights else ""
    return f"Collisions: {'; '.join(parts)}.{fused}"


if __name__ == "__main__":
    paths = [Path(p) for p in sys.argv[1:]] or sorted(RESULTS.glob("*.json"))
    print("\n\n".join(table(path) for path in paths))
