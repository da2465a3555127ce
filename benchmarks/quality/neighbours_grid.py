"""Evaluates the item neighbours alone on validation users, over a grid of their settings.

    PYTHONPATH=src:. python benchmarks/quality/neighbours_grid.py DATASET ... [--successors]

Each DATASET contains the artifacts `sequences` and `items`. For all users, the second to last item
is predicted from all items before it. Lists exclude seen items if few training interactions are
repeats (seen_items=auto). There is one JSON line per data set, asymmetry and shrinkage
(`macrec.ranking.neighbours`). With --successors there is one per asymmetry, share of the successors
in the neighbours, and decay of the successors.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import shared
from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences, seen_pairs, should_drop_seen
from macrec.data.split import Cases, read_split
from macrec.metrics.ranking_metrics import per_user, ranks_in_lists
from macrec.ranking.lists import top_lists
from macrec.ranking.neighbours import SHRINKAGE, AnyNeighbours, Counts, MixedNeighbours, Neighbours

ASYMMETRIES = (0.5, 0.65, 0.75, 0.85, 1.0)
SHRINKAGES = (10.0, 20.0, 40.0)
OF_SUCCESSORS = {
    "asymmetry": (0.5, 0.7),
    "successors": (0.0, 0.2, 0.3, 0.4),
    "decay": (0.3, 0.5, 0.7),
}
MAX_HISTORY = 20
USERS_AT_ONCE = 2048
PLACES = 10


def main() -> None:
    parser = shared.make_parser(__doc__)
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET")
    parser.add_argument("--successors", action="store_true", help="mix these in, by their share")
    options = parser.parse_args()
    for folder in options.datasets:
        items = Artifact.open(folder / "items").rows
        split = read_split(Artifact.open(folder / "sequences"), items)
        cases = split.validation(0, np.random.default_rng(0))
        drop_seen = should_drop_seen("auto", split.sequences)
        grid = _with_successors if options.successors else _counted
        for settings, neighbours in grid(split.training(), items):
            line = {
                "benchmark": "neighbours_grid",
                "data": folder.name,
                "users": len(cases.targets_T),
                **settings,
                **_measured(neighbours, cases, items, drop_seen),
            }
            shared.print_line(line | shared.describe_origin())


Grid = Iterator[tuple[dict[str, float], AnyNeighbours]]


def _counted(training: Sequences, items: int) -> Grid:
    counts = Counts.from_histories(training, items)
    for asymmetry, shrinkage in product(ASYMMETRIES, SHRINKAGES):
        settings = {"asymmetry": asymmetry, "shrinkage": shrinkage}
        yield settings, Neighbours.from_counts(counts, **settings)


def _with_successors(training: Sequences, items: int) -> Grid:
    near, after = Counts.from_histories(training, items), Counts.from_successors(training, items)
    for asymmetry, share, decay in product(*OF_SUCCESSORS.values()):
        if not share and decay != OF_SUCCESSORS["decay"][0]:
            continue  # without successors the decay has no effect
        parts = [
            (1 - share, Neighbours.from_counts(near, asymmetry)),
            (share, Neighbours(Neighbours.from_counts(after, asymmetry).similar_NN, decay)),
        ]
        settings = {"asymmetry": asymmetry, "shrinkage": SHRINKAGE}
        settings |= {"successors": share, "decay": decay if share else 0.0}
        yield settings, MixedNeighbours(parts)


def _measured(
    neighbours: AnyNeighbours, cases: Cases, items: int, drop_seen: bool
) -> dict[str, float]:
    all_N = np.ones(items, bool)
    by_metric: dict[str, list[np.ndarray]] = {"hr_10": [], "ndcg_10": []}
    for start in range(0, len(cases.targets_T), USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        whole = cases.histories[part]
        seen = seen_pairs(whole) if drop_seen else None
        shares = neighbours.shares([history[-MAX_HISTORY:] for history in whole], all_N, seen)
        columns = shares.user_P, shares.item_P, shares.share_P
        lists = top_lists(*columns, users=len(whole), top_k=PLACES)
        values = per_user(ranks_in_lists(*lists, cases.targets_T[part]), (PLACES,))
        for name, parts in by_metric.items():
            parts.append(values[name])
    return {
        name: round(float(np.concatenate(parts).mean()), 4) for name, parts in by_metric.items()
    }


if __name__ == "__main__":
    main()
