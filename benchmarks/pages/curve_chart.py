"""Draws learning curves of several trainings as a stand-alone SVG: NDCG@10 over minutes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from markupsafe import Markup

from benchmarks.pages.bench_chart import PAPER
from macrec.report.contents import Panel, Series
from macrec.report.line_chart import line_chart

STYLE: Final = Markup(
    f"<style>{PAPER}.line{{fill:none;stroke:var(--c);stroke-width:1.6}}"
    ".dot{fill:var(--c)}text.label{fill:var(--c);font-weight:600}"
    ".s-other-0{--c:#1f5fa8}.s-other-1{--c:#b4520a}.s-other-2{--c:#4d7c3a}.s-other-3{--c:#77726a}"
    "</style>"
)
WIDTH, HEIGHT = 620, 432


def curves(runs: Mapping[str, Iterable[Mapping[str, Any]]], title: str) -> str:
    """Return the SVG.

    Args:
        runs: rows with `seconds` and `validation_ndcg_at_10` by name, as benchmarks/quality/
            instruments.py writes them. The metric is None in a row without validation.
        title: title of the chart.
    """
    series = [_series(name, [*rows]) for name, rows in runs.items()]
    panel = Panel(
        title=title,
        x_label="minutes of training",
        y_label="NDCG@10 of validation users",
        series=tuple(series),
    )
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">'
        "{2}{3}</svg>"
    ).format(WIDTH, HEIGHT, STYLE, line_chart(panel))


def _series(name: str, rows: list[Mapping[str, Any]]) -> Series:
    x = tuple(row["seconds"] / 60 for row in rows)
    return Series(name=name, x=x, y=tuple(row["validation_ndcg_at_10"] for row in rows))
