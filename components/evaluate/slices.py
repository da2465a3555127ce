"""Measures the main system on groups of users, with the most popular items for comparison.

Users are grouped by the training popularity of their next item and by the length of their history.
They are also grouped by the modalities in which the next item has codes. T test users, N items.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.spec import Settings
from components.evaluate.systems import BOOTSTRAP_STREAM, AllScores
from macrec.data.split import Split
from macrec.generator.model import Recommender
from macrec.generator.tokens import Modality, has_code
from macrec.metrics.ranking_metrics import POPULARITY, Interval, bootstrap, popularity_groups

FILE: Final = "slices.json"
METRICS: Final = ("hr_10", "ndcg_10")
LENGTHS: Final = ((1, 2), (3, 5), (6, 10), (11, 20), (21, None))
"""First and last length of a history in each group."""
COVERED: Final[dict[Modality, str]] = {"text": "text", "image": "picture"}


class Slice(NamedTuple):
    """A group of test users."""

    by: str
    """popularity, history, text or image."""
    name: str
    users: int
    scores: dict[str, dict[str, Interval]]
    """By system, then by metric."""


def measure_slices(
    config: Settings, split: Split, evaluated: AllScores, recommender: Recommender
) -> tuple[Slice, ...]:
    """Return HR@10 and NDCG@10 of every group that has users, each with its bootstrap interval."""
    values = {
        (system, metric): evaluated.systems[system].values[metric]
        for system in (evaluated.main, "popular")
        for metric in METRICS
    }
    found: list[Slice] = []
    for by, name, users_T in _groups(split, evaluated, recommender):
        if not users_T.any():
            continue
        generator = np.random.default_rng([config.seed, BOOTSTRAP_STREAM])
        inside = {f"{s} {m}": value_T[users_T] for (s, m), value_T in values.items()}
        intervals = bootstrap(inside, generator)
        scores: dict[str, dict[str, Interval]] = {}
        for system, metric in values:
            scores.setdefault(system, {})[metric] = intervals[f"{system} {metric}"]
        found.append(Slice(by, name, int(users_T.sum()), scores))
    return tuple(found)


def _groups(
    split: Split, evaluated: AllScores, recommender: Recommender
) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Yield the grouping criterion, the name of the group, and its members [T]."""
    ends_T = split.sequences.offsets[split.users_T + 1]
    targets_T = split.sequences.items[ends_T - 1]
    group_T = popularity_groups(evaluated.popularity_N)[targets_T]
    for group, name in enumerate(POPULARITY):
        yield "popularity", name, group_T == group
    length_T = ends_T - split.sequences.offsets[split.users_T] - 1
    for first, last in LENGTHS:
        name = f"{first} or more" if last is None else f"{first} to {last}"
        yield "history", name, (length_T >= first) & (length_T <= (last or np.inf))
    for modality in recommender.modalities:
        coded_T = has_code(recommender.codes_NL(modality))[targets_T]
        yield modality, f"with {COVERED[modality]}", coded_T
        yield modality, f"without {COVERED[modality]}", ~coded_T


def write_slices(folder: Path, slices: tuple[Slice, ...]) -> None:
    """Write the groups as a JSON list to a file of a folder that is not yet committed."""
    rows = [
        {
            "by": s.by,
            "slice": s.name,
            "users": s.users,
            "systems": {
                system: {metric: interval._asdict() for metric, interval in metrics.items()}
                for system, metrics in s.scores.items()
            },
        }
        for s in slices
    ]
    (folder / FILE).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
