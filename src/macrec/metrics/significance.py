"""Test whether two recommenders differ significantly, paired over the users of one test set.

Shape suffixes: U users, M metrics, R draws, K places of a list.

The users are the sample. Intervals and p values describe the variation between samples of users,
not between training seeds. So a side may consist of several runs, and a user's value is the mean
over them. The p values are not corrected for the number of metrics.
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
    """The metrics of one system in one run, with users sorted by their ids."""

    name: str
    user_ids_U: npt.NDArray[np.object_]
    targets_U: npt.NDArray[np.int64]
    values: dict[str, FloatArray]
    """Values [U] by metric; hr_1 .. mrr_20, as far as the length of the lists allows."""


class Difference(NamedTuple):
    """The difference between two sides in one metric."""

    metric: str
    a: tuple[float, ...]
    """Mean over users, for every run of side a; `b` is the same for side b."""
    b: tuple[float, ...]
    difference: Interval
    """b - a per user, with its 95 % bootstrap interval."""
    p: float
    """Two-sided p value of the randomisation test."""


def read_scores(predictions: Artifact, system: str) -> UserScores:
    """Compute HR, NDCG and MRR of every user from the lists of the stage evaluate.

    Raises:
        UserError: the artifact is not predictions, or it has no lists of the system.
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
        lists = (_pad(batch.column("items"), -1), _pad(batch.column("scores"), -np.inf))
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
    """Compare b with a in every metric that all runs have.

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
    """Return the two-sided p value [M] of each mean difference, by paired randomisation.

    If the two sides do not differ, both signs of a user's difference are equally likely. The p
    value is the share of sign assignments whose mean is at least as far from 0 as the observed one.
    The observed signs are included, so the p value is at least 1 / (draws + 1). Source: Smucker,
    Allan and Carterette 2007.
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
    """Check that all runs have the same users, with the same target for each user.

    Raises:
        UserError: users or targets differ.
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


def _pad(lists: pa.ListArray, fill: float) -> npt.NDArray[Any]:
    """Pad lists of different lengths to a matrix [U, K]."""
    flat = lists.flatten().to_numpy()
    length_U = lists.value_lengths().to_numpy()
    padded_UK = np.full((len(length_U), int(length_U.max(initial=1))), fill, flat.dtype)
    padded_UK[np.arange(padded_UK.shape[1]) < length_U[:, None]] = flat
    return padded_UK
