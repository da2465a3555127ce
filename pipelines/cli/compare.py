"""`macrec compare`: tests whether a run, or the mean of several runs, is better than another."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macrec.core.artifact import MANIFEST, Artifact
from macrec.core.errors import UserError, check
from macrec.metrics.significance import Difference, UserScores, compare, read_scores
from macrec.report.numbers import metric as shown
from pipelines.local.id_version import left_by

SEED = 0


class Side(NamedTuple):
    """One side of the comparison: a system, scored in one or more runs."""

    system: str
    runs: list[UserScores]


class Comparison(NamedTuple):
    """The two sides and their difference in each metric."""

    a: Side
    b: Side
    differences: list[Difference]


def compare_runs(
    run_a: str, run_b: str, system: str = "fused", metrics: Sequence[str] = ()
) -> Comparison:
    """Compare two sides, paired over the test users.

    Args:
        run_a: output folder of a `macrec run`, or a predictions artifact. Several runs, trained
            with different seeds, are separated by commas.
        run_b: the same for the other side.
        system: system whose lists are compared; two systems separated by a comma are those of a
            and of b.
        metrics: names such as ndcg_10; all metrics if empty.

    Raises:
        UserError: if a folder has no predictions, the runs were tested on different users or
            targets, or a metric is unknown.
    """
    system_a, _, system_b = system.partition(",")
    a = Side(system_a, [_scores(folder, system_a) for folder in run_a.split(",")])
    system_b = system_b or system_a
    b = Side(system_b, [_scores(folder, system_b) for folder in run_b.split(",")])
    found = compare(a.runs, b.runs, np.random.default_rng(SEED))
    known = [difference.metric for difference in found]
    unknown = [name for name in metrics if name not in known]
    check(
        not unknown,
        f"--metric {', '.join(unknown)}: no such metric. There are {', '.join(known)}.",
    )
    wanted = [difference for difference in found if difference.metric in (metrics or known)]
    return Comparison(a, b, wanted)


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table for a terminal."""
    users = len(comparison.a.runs[0].user_ids_U)
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        mean = f", mean of {len(side.runs)} runs" if len(side.runs) > 1 else ""
        yield f"{letter}: {side.system}{mean}, {', '.join(run.name for run in side.runs)}"
    yield ""
    yield f"{'':<9}{'A':>9}{'B':>9}{'B - A':>10}{'95 % interval':>22}{'p':>10}"
    for found in comparison.differences:
        mean, low, high = found.difference
        name = found.metric.upper().replace("_", "@")
        interval = f"{low:+.4f} to {high:+.4f}"
        yield (
            f"{name:<9}{shown(_mean(found.a)):>9}{shown(_mean(found.b)):>9}{mean:>+10.4f}"
            f"{interval:>22}{found.p:>10.4f}"
        )
    yield ""
    yield (
        f"{users:,} test users, paired. Interval: bootstrap over users. p: two-sided, random signs "
        "of the users' differences, not corrected for the number of metrics.\n"
        "Both say what other users might have shown, not what another training seed would: give "
        "several runs a side for that."
    )


def as_json(comparison: Comparison) -> str:
    """Return the same figures as JSON, for programs."""
    told: dict[str, Any] = {"users": len(comparison.a.runs[0].user_ids_U)}
    for letter, side in (("a", comparison.a), ("b", comparison.b)):
        told[letter] = {"system": side.system, "predictions": [run.name for run in side.runs]}
    told["metrics"] = {
        found.metric: {
            "a": _mean(found.a),
            "b": _mean(found.b),
            "a_runs": found.a,
            "b_runs": found.b,
            "difference": found.difference.mean,
            "low": found.difference.low,
            "high": found.difference.high,
            "p": found.p,
        }
        for found in comparison.differences
    }
    return json.dumps(told, indent=1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _scores(folder: str, system: str) -> UserScores:
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{folder}: no such folder. Give the output folder of a `macrec run`.")
    if not (path / MANIFEST).is_file():
        path = left_by(path, ["predictions"])["predictions"]
    return read_scores(Artifact.open(path), system)
