"""Compares runs on the same data with different settings, paired by user.

    PYTHONPATH=src:. python benchmarks/quality/compare.py \\
        base=runs/a/seed-0,runs/a/seed-1 other=runs/b/seed-0,runs/b/seed-1

Each NAME=DIR,DIR is one system with one folder per seed. A DIR is the --out of a `macrec run`.
HR@10 and NDCG@10 of a user are averaged over the seeds of a system. Confidence intervals (95 %,
bootstrap over users) and p values (random signs) are those of `macrec compare`. The first system is
the baseline of the comparisons. The script prints one JSON line per system and list, or a table
with --markdown.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks import shared
from macrec.core.errors import UserError
from macrec.metrics.significance import UserScores, compare, read_scores

LISTS = ("text", "image", "fused")
METRICS = {"hr": "hr_10", "ndcg": "ndcg_10"}


def main() -> None:
    options = _options()
    systems = {name: _scores(dirs) for name, dirs in (s.split("=", 1) for s in options.system)}
    base_name, base = next(iter(systems.items()))
    lines: list[dict[str, object]] = []
    for name, by_list in systems.items():
        for listing, runs in by_list.items():
            line: dict[str, object] = {"benchmark": "compare", "system": name, "list": listing}
            against = base.get(listing, runs)
            for difference in compare(against, runs, np.random.default_rng(0)):
                short = next((k for k, m in METRICS.items() if m == difference.metric), None)
                if short is None:
                    continue
                line |= {
                    short: round(float(np.mean(difference.b)), 5),
                    f"{short}_seeds": [round(mean, 5) for mean in difference.b],
                }
                if name != base_name and listing in base:
                    _, low, high = difference.difference
                    line[f"{short}_difference"] = [round(low, 5), round(high, 5)]
                    line[f"{short}_p"] = round(difference.p, 5)
            lines.append(line)
    if options.markdown:
        _markdown(lines, base_name)
        return
    for line in lines:
        shared.print_line(line)


def _scores(dirs: str) -> dict[str, list[UserScores]]:
    """Read the scores of one system's runs by list. Lists that a run lacks are omitted."""
    runs = [
        shared.latest_artifact(Path(folder), "evaluate", "predictions")
        for folder in dirs.split(",")
    ]
    by_list: dict[str, list[UserScores]] = {}
    for listing in LISTS:
        try:
            by_list[listing] = [read_scores(predictions, listing) for predictions in runs]
        except UserError:  # a run on a single modality
            continue
    if not by_list:
        raise UserError(f"{dirs}: these runs have no list in common.")
    return by_list


def _markdown(lines: list[dict[str, object]], base: str) -> None:
    print(f"| system | list | HR@10 | against {base} | NDCG@10 | against {base} |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        cells = [str(line["system"]), str(line["list"])]
        for metric in METRICS:
            seeds = np.array(line[f"{metric}_seeds"])
            spread = f" ± {seeds.std(ddof=1):.4f}" if len(seeds) > 1 else ""
            cells.append(f"{seeds.mean():.4f}{spread}")
            span = line.get(f"{metric}_difference")
            cells.append("{:+.4f} .. {:+.4f}".format(*span) if isinstance(span, list) else "")
        print(f"| {' | '.join(cells)} |")


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("system", nargs="+", metavar="NAME=DIR,DIR")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
