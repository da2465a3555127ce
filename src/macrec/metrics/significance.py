"""Whether two recommenders differ, paired over the users of one test.

Shape suffixes: U users, M metrics, R draws, K places of a list.

The users are the sample: an interval or a p value says how far another draw of users might have
given another answer, not what another seed of training would. So a side may be several runs, and a
user counts with the mean over them. No p value is corrected for the number of metrics.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from macrec.core.artifact import Artifact
from macrec.core.errors import UserError, check
from macrec.metrics.ranking_metrics import (
    CUTOFFS,
    Interval,
    bootstrap,
    metric_names,
    per_user,
    ranks_in_lists,
)

FloatArray = npt.NDArray[np.float64]

DRAWS: Final = 10_000
DRAWS_AT_ONCE: Final = 64
COLUMNS: Final = ["user_id", "system", "target", "items", "scores"]


class UserScores(NamedTuple):
    """What one system of one run scores, users sorted by their ids."""

    name: str
    user_ids_U: npt.NDArray[np.object_]
    targets_U: npt.NDArray[np.int64]
    values: dict[str, FloatArray]
    """By metric, each [U]; hr_1 .. mrr_20, as far as the lists reach."""


class Difference(NamedTuple):
    """One metric of two sides."""

    metric: str
    a: tuple[float, ...]
    """Mean over users of every run of a side."""
    b: tuple[float, ...]
    difference: Interval
    """b - a per user, with its 95 % bootstrap interval."""
    p: float
    """Two-sided, by the randomisation test."""


def read_scores(predictions: Artifact, system: str) -> UserScores:
    """HR, NDCG and MRR of every user from the lists of the stage evaluate.

    Raises:
        UserError: these are no predictions, or there are none of the system.
    """
    columns = predictions.manifest["schema"] or []
    check(
        set(COLUMNS) <= {column["name"] for column in columns},
        f"{predictions.path}: not the predictions of a run. Give a folder that `macrec run` has "
        "filled, or the predictions that its stage evaluate has left.",
    )
    longest = int(predictions.manifest["config"]["top_k"])
    cutoffs = tuple(cutoff for cutoff in CUTOFFS if cutoff <= longest)
    ids, targets = [np.empty(0, object)], [np.empty(0, np.int64)]
    values: dict[str, list[FloatArray]] = {name: [np.empty(0)] for name in metric_names(cutoffs)}
    systems: set[str] = set()
    for batch in predictions.batches(COLUMNS):
        name_R = np.array(batch.column("system").to_pylist(), object)
        systems.update(name_R)
        batch = batch.filter(name_R == system)
        target_U = batch.column("target").to_numpy().astype(np.int64)
        lists = (_padded(batch.column("items"), -1), _padded(batch.column("scores"), -np.inf))
        ids.append(np.array(batch.column("user_id").to_pylist(), object))
        targets.append(target_U)
        for name, value_U in per_user(ranks_in_lists(*lists, target_U), cutoffs).items():
            values[name].append(value_U)
    user_ids_U = np.concatenate(ids)
    if not len(user_ids_U):
        raise UserError(
            f"{predictions.path}: no lists of {system!r}. There are those of "
            f"{', '.join(sorted(systems)) or 'no system'}; name one of them with --system."
        )
    order = np.argsort(user_ids_U, kind="stable")
    by_user = {name: np.concatenate(parts)[order] for name, parts in values.items()}
    return UserScores(
        str(predictions.path), user_ids_U[order], np.concatenate(targets)[order], by_user
    )


def compare(
    a: Sequence[UserScores],
    b: Sequence[UserScores],
    generator: np.random.Generator,
    draws: int = DRAWS,
) -> list[Difference]:
    """Every metric that all runs have, b against a.

    Raises:
        UserError: the runs were not tested on the same users with the same targets.
    """
    check_same_test([*a, *b])
    names = [n for n in a[0].values if all(n in scores.values for scores in (*a, *b))]
    sides = [
        {name: np.stack([scores.values[name] for scores in side]) for name in names}
        for side in (a, b)
    ]
    difference = {name: sides[1][name].mean(axis=0) - sides[0][name].mean(axis=0) for name in names}
    intervals = bootstrap(difference, generator, resamples=draws)
    p_M = sign_flip_test(np.stack(list(difference.values()), axis=1), generator, draws)
    return [
        Difference(
            name,
            tuple(sides[0][name].mean(axis=1).tolist()),
            tuple(sides[1][name].mean(axis=1).tolist()),
            intervals[name],
            float(p_M[m]),
        )
        for m, name in enumerate(names)
    ]


def sign_flip_test(
    difference_UM: FloatArray, generator: np.random.Generator, draws: int = DRAWS
) -> FloatArray:
    """Two-sided p value [M] of each mean difference, by paired randomisation.

    If the two sides do not differ, a user's difference is as likely with the other sign. The p
    value is the share of random signs, the observed ones among them, that give a mean as far from
    0 (Smucker, Allan and Carterette 2007), so it is never below 1 / (draws + 1).
    """
    total_M = difference_UM.sum(axis=0)
    rounding_M = 1e-12 * np.abs(difference_UM).sum(axis=0)
    as_far_M = np.ones(len(total_M))
    for start in range(0, draws, DRAWS_AT_ONCE):
        shape = (min(DRAWS_AT_ONCE, draws - start), len(difference_UM))
        kept_RU = generator.integers(0, 2, shape, dtype=np.int8).astype(np.float64)
        flipped_RM = 2 * (kept_RU @ difference_UM) - total_M
        as_far_M += (np.abs(flipped_RM) >= np.abs(total_M) - rounding_M).sum(axis=0)
    return as_far_M / (draws + 1)


def check_same_test(runs: Sequence[UserScores]) -> None:
    """All runs have the same users and the same target for each.

    Raises:
        UserError: how many differ, the first of them and what to do.
    """
    first, *others = runs
    advice = (
        "Only runs of the same catalogue and the same log, prepared with the same catalog_ "
        "settings, can be compared."
    )
    for other in others:
        lacking = np.setdiff1d(first.user_ids_U, other.user_ids_U)
        added = np.setdiff1d(other.user_ids_U, first.user_ids_U)
        found = [
            f"{len(ids):,} of {len(run.user_ids_U):,} test users of {run.name} are not in the "
            f"other ({_first(ids)})"
            for ids, run in ((lacking, first), (added, other))
            if len(ids)
        ]
        check(not found, f"{' and '.join(found)}. {advice}")
        differs_U = first.targets_U != other.targets_U
        check(
            not differs_U.any(),
            f"{int(differs_U.sum()):,} of {len(differs_U):,} test users have another target in "
            f"{other.name} than in {first.name} ({_first(first.user_ids_U[differs_U])}). {advice}",
        )


def _first(ids: npt.NDArray[np.object_]) -> str:
    return "first: " + ", ".join(map(str, ids[:3]))


def _padded(lists: pa.ListArray, fill: float) -> npt.NDArray[Any]:
    """Lists of different lengths as a matrix [U, K]."""
    flat = lists.flatten().to_numpy()
    length_U = lists.value_lengths().to_numpy()
    padded_UK = np.full((len(length_U), int(length_U.max(initial=1))), fill, flat.dtype)
    padded_UK[np.arange(padded_UK.shape[1]) < length_U[:, None]] = flat
    return padded_UK
