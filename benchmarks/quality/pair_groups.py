"""Breaks down the results of systems by how the target and the history co-occur in training.

    PYTHONPATH=src:. python benchmarks/quality/pair_groups.py DATASET NAME=PREDICTIONS[:SYSTEM] ...

DATASET contains the artifacts `sequences` and `items`. PREDICTIONS is an artifact of the stages
evaluate or baselines; several seeds are separated by commas. SYSTEM is required if it contains
several systems. A test user belongs to the first group that applies:

    followed twice   the target directly followed the last item of the history twice or more
    followed once    the target directly followed it once
    with the last    some user's history contains both
    with another     some user's history contains the target and another item of the history
    never            none of these

The script prints three Markdown tables. The first has the number of users, HR@1, HR@10 and NDCG@10
of every group and system. The second has the fractions of the groups at validation and at test. The
third has the fraction of seen items at each of the first ten positions of the lists.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import shared
from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences
from macrec.data.split import Cases, read_split
from macrec.metrics.significance import UserScores, read_scores

GROUPS = ("followed twice", "followed once", "with the last", "with another", "never")
METRICS = {"HR@1": "hr_1", "HR@10": "hr_10", "NDCG@10": "ndcg_10"}
PLACES = 10


def main() -> None:
    options = _options()
    items = Artifact.open(options.dataset / "items").rows
    split = read_split(Artifact.open(options.dataset / "sequences"), items)
    users = np.array(split.user_ids.take(split.users_T).to_pylist(), object)
    order_T = np.argsort(users)  # the order of `read_scores`
    training, test = split.training(), split.test(split.users_T)
    group_T = np.array(list(groups(training, test)))[order_T]
    validation = split.validation(0, np.random.default_rng(0))
    group_V = np.array(list(groups(training, validation)))
    histories = dict(zip(users, test.histories, strict=True))
    runs: dict[str, list[UserScores]] = {}
    seen: dict[str, npt.NDArray[np.float64]] = {}
    for name, source in (system.split("=", 1) for system in options.system):
        folders, _, system = source.partition(":")
        opened = [Artifact.open(Path(folder)) for folder in folders.split(",")]
        runs[name] = [read_scores(artifact, system or name) for artifact in opened]
        shares = [_seen_share(artifact, system or name, histories) for artifact in opened]
        seen[name] = np.mean(shares, axis=0)
    print("\n".join(_table(group_T, runs)))
    print()
    print(f"| share of the users | {' | '.join(GROUPS)} |")
    print("|---" * (len(GROUPS) + 1) + "|")
    for name, group_U in {"validation": group_V, "test": group_T}.items():
        print(f"| {name} | {' | '.join(f'{(group_U == group).mean():.3f}' for group in GROUPS)} |")
    print()
    print(f"| items that the user has, by place | {' | '.join(map(str, range(1, PLACES + 1)))} |")
    print("|---" * (PLACES + 1) + "|")
    for name, share_K in seen.items():
        print(f"| {name} | {' | '.join(f'{share:.3f}' for share in share_K)} |")


def groups(training: Sequences, cases: Cases) -> Iterator[str]:
    """Yield the group of every case."""
    follows, together = Counter(), Counter()
    for history in np.split(training.items, training.offsets[1:-1]):
        items = history.tolist()
        follows.update(pairwise(items))
        together.update((a, b) for a in set(items) for b in set(items) if a != b)
    for history, target in zip(*cases, strict=True):
        last, item = int(history[-1]), int(target)
        if times := follows[last, item]:
            yield "followed twice" if times > 1 else "followed once"
        elif together[last, item]:
            yield "with the last"
        else:
            any_other = any(together[other, item] for other in history.tolist())
            yield "with another" if any_other else "never"


def _table(group_T: npt.NDArray[np.str_], runs: dict[str, list[UserScores]]) -> Iterator[str]:
    names = [f"{name} {metric}" for name in runs for metric in METRICS]
    yield f"| target in training | users | {' | '.join(names)} |"
    yield "|---" * (2 + len(names)) + "|"
    for group in ("all", *GROUPS):
        here_T = np.full(len(group_T), True) if group == "all" else group_T == group
        cells = [
            f"{np.mean([run.values[metric][here_T].mean() for run in seeds]):.4f}"
            for seeds in runs.values()
            for metric in METRICS.values()
        ]
        yield f"| {group} | {here_T.sum():,} | {' | '.join(cells)} |"


def _seen_share(
    predictions: Artifact, system: str, histories: dict[str, npt.NDArray[np.int32]]
) -> npt.NDArray[np.float64]:
    """Return the fraction of users whose history contains the item at each position, [PLACES]."""
    seen_K, users = np.zeros(PLACES), 0
    for batch in predictions.batches(["user_id", "system", "items"]):
        for row in batch.to_pylist():
            if row["system"] == system:
                first = np.isin(row["items"][:PLACES], histories[row["user_id"]])
                seen_K[: len(first)] += first
                users += 1
    return seen_K / max(users, 1)


def _options() -> argparse.Namespace:
    parser = shared.make_parser(__doc__)
    parser.add_argument("dataset", type=Path, help="folder with sequences and items")
    parser.add_argument("system", nargs="+", metavar="NAME=PREDICTIONS[:SYSTEM]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
