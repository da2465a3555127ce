"""`macrec compare`: tests whether a run, or the mean of several runs, is better than another."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macrec.core.artifact import MANIFEST, Artifact
from macrec.core.errors import UserError, check
from macrec.metrics.significance import Difference, UserScores, compare, read_scores
from macrec.report.numbers import metric as metric_text
from pipelines.local.id_version import find_run_artifacts

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
        system: system whose lists are compared; two systems separated by a comma are those of
            `run_a` and of `run_b`.
        metrics: names such as ndcg_10; all metrics if empty.

    Raises:
        UserError: if a folder has no predictions, the runs were tested on different users or
            targets, or a metric is unknown.
    """
    system_a, _, system_b = system.partition(",")
    a = Side(system_a, [_scores(folder, system_a) for folder in run_a.split(",")])
    system_b = system_b or system_a
    b = Side(system_b, [_scores(folder, system_b) for folder in run_b.split(",")])
    differences = compare(a.runs, b.runs, np.random.default_rng(SEED))
    names = [difference.metric for difference in differences]
    unknown = [name for name in metrics if name not in names]
    check(
        not unknown,
        f"--metric {', '.join(unknown)}: no such metric. There are {', '.join(names)}.",
    )
    return Comparison(a, b, [d for d in differences if d.metric in (metrics or names)])


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table for a terminal."""
    users = len(comparison.a.runs[0].user_ids_U)
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        mean = f", mean of {len(side.runs)} runs" if len(side.runs) > 1 else ""
        yield f"{letter}: {side.system}{mean}, {', '.join(run.name for run in side.runs)}"
    yield ""
    yield f"{'':<9}{'A':>9}{'B':>9}{'B - A':>10}{'95 % interval':>22}{'p':>10}"
    for result in comparison.differences:
        mean, low, high = result.difference
        name = result.metric.upper().replace("_", "@")
        means = "".join(f"{metric_text(_mean(side)):>9}" for side in (result.a, result.b))
        interval = f"{low:+.4f} to {high:+.4f}"
        yield f"{name:<9}{means}{mean:>+10.4f}{interval:>22}{result.p:>10.4f}"
    yield ""
    yield (
        f"{users:,} test users, paired. The interval is a bootstrap over users. p is two-sided, "
        "from a sign-flip\ntest over users, and is not corrected for the number of metrics. "
        "Neither covers another training seed:\ngive several runs per side for that."
    )


def as_json(comparison: Comparison) -> str:
    """Return the content of the table as JSON, for programs."""
    content: dict[str, Any] = {"users": len(comparison.a.runs[0].user_ids_U)}
    for letter, side in (("a", comparison.a), ("b", comparison.b)):
        content[letter] = {"system": side.system, "predictions": [run.name for run in side.runs]}
    content["metrics"] = {
        result.metric: {
            "a": _mean(result.a),
            "b": _mean(result.b),
            "a_runs": result.a,
            "b_runs": result.b,
            "difference": result.difference.mean,
            "low": result.difference.low,
            "high": result.difference.high,
            "p": result.p,
        }
        for result in comparison.differences
    }
    return json.dumps(content, indent=1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _scores(folder: str, system: str) -> UserScores:
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{folder}: no such folder. Give the output folder of a `macrec run`.")
    if not (path / MANIFEST).is_file():
        path = find_run_artifacts(path, ["predictions"])["predictions"]
    return read_scores(Artifact.open(path), system)
