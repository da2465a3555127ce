"""Summarises all systems on several data sets in one small table."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipelines.bench.table import ALPHA, JUDGED_BY, heading

METRICS: Final = ("hr_10", JUDGED_BY)


def summary(benches: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table with one row per system, sorted by the first data set, best first.

    Bold marks the best system by `JUDGED_BY` and those that are not significantly different from it
    (p >= `ALPHA` in that metric).

    Args:
        benches: results of `macrec bench`, by data set.
    """
    heads = [f"{name}, {heading(metric)}" for name in benches for metric in METRICS]
    yield f"| | {' | '.join(heads)} |"
    yield "|---" * (1 + len(heads)) + "|"
    titles = {
        name: system["title"]
        for bench in benches.values()
        for name, system in bench["systems"].items()
    }
    rows = {name: [bench["systems"].get(name) for bench in benches.values()] for name in titles}
    for name in sorted(rows, key=lambda name: _quality(rows[name]), reverse=True):
        cells = [cell for system in rows[name] for cell in _cells(system)]
        yield f"| {titles[name]} | {' | '.join(cells)} |"


def _quality(row: list[dict[str, Any] | None]) -> list[float]:
    return [system["mean"][JUDGED_BY] if system else -1.0 for system in row]


def _cells(system: dict[str, Any] | None) -> Iterator[str]:
    if system is None:
        yield from ["–"] * len(METRICS)
        return
    compared = system["to_the_best"].get(JUDGED_BY)
    bold = "**" if compared is None or compared["p"] >= ALPHA else ""
    for metric in METRICS:
        yield f"{bold}{system['mean'][metric]:.3f}{bold}"
