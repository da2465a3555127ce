"""Compares runs of the same data with different settings, paired by user.

    python benchmarks/compare.py base=runs/a/seed-0,runs/a/seed-1 other=runs/b/seed-0,runs/b/seed-1

Each NAME=DIR,DIR is one system under several seeds; a DIR is the --out of a `macrec run`. A user's
HR@10 and NDCG@10 are averaged over the seeds of a system; the interval of a difference is a
bootstrap over users (10,000 draws, 95 %). The first system is what the others are compared with.
Prints one JSON line per system and list; --markdown prints a table instead.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from quantizer import artifact

DRAWS = 10_000
LISTS = ("text", "image", "fused")


class Scores(NamedTuple):
    """HR@10 and NDCG@10 of every user, float64 [seeds, users], users in one order."""

    hr: np.ndarray
    ndcg: np.ndarray


def main() -> None:
    options = _options()
    systems = {name: _scores(dirs) for name, dirs in (s.split("=", 1) for s in options.system)}
    base_name, base = next(iter(systems.items()))
    lines: list[dict[str, object]] = []
    for name, found in systems.items():
        for listing, scores in found.items():
            line: dict[str, object] = {"benchmark": "compare", "system": name, "list": listing}
            for metric in Scores._fields:
                values = getattr(scores, metric)
                means = values.mean(1)
                line |= {
                    metric: round(float(means.mean()), 5),
                    f"{metric}_seeds": [round(float(mean), 5) for mean in means],
                }
                if name != base_name and listing in base:
                    low, high = _interval(values.mean(0) - getattr(base[listing], metric).mean(0))
                    line[f"{metric}_difference"] = [round(low, 5), round(high, 5)]
            lines.append(line)
    if options.markdown:
        _markdown(lines, base_name)
        return
    for line in lines:
        print(json.dumps(line))


def _scores(dirs: str) -> dict[str, Scores]:
    runs = [_users(Path(folder)) for folder in dirs.split(",")]
    return {
        listing: Scores(*(np.stack([run[listing][m] for run in runs]) for m in range(2)))
        for listing in LISTS
        if all(listing in run for run in runs)
    }


def _users(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    table = artifact(run, "evaluate", "predictions").table()
    found: dict[str, list[tuple[str, float, float]]] = {}
    for row in table.select(["user_id", "system", "target", "items"]).to_pylist():
        first = row["items"][:10]
        rank = first.index(row["target"]) + 1 if row["target"] in first else 0
        gain = 1 / np.log2(rank + 1) if rank else 0.0
        found.setdefault(row["system"], []).append((row["user_id"], float(rank > 0), gain))
    return {
        name: (np.array([u[1] for u in sorted(users)]), np.array([u[2] for u in sorted(users)]))
        for name, users in found.items()
    }


def _interval(difference_U: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    draws = [
        difference_U[rng.integers(len(difference_U), size=len(difference_U))].mean()
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _markdown(lines: list[dict[str, object]], base: str) -> None:
    print(f"| system | list | HR@10 | against {base} | NDCG@10 | against {base} |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        cells = [str(line["system"]), str(line["list"])]
        for metric in Scores._fields:
            seeds = np.array(line[f"{metric}_seeds"])
            spread = f" ± {seeds.std(ddof=1):.4f}" if len(seeds) > 1 else ""
            cells.append(f"{seeds.mean():.4f}{spread}")
            found = line.get(f"{metric}_difference")
            cells.append("{:+.4f} .. {:+.4f}".format(*found) if isinstance(found, list) else "")
        print(f"| {' | '.join(cells)} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", nargs="+", metavar="NAME=DIR,DIR")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
