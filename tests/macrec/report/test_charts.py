"""The charts of the report: points in their frame, figures behind them."""

import re
from dataclasses import replace
from itertools import pairwise
from math import inf, isfinite, nan

import pytest

from macrec.report import charts, numbers
from macrec.report import contents as r
from macrec.report.charts import group_bins
from macrec.report.line_chart import MAX_POINTS, line_chart
from macrec.report.render import render_report
from macrec.report.scale import axis, spread
from tests.small_report import Page, full, line, panel


def coordinates(drawing: str) -> tuple[float, float, list[tuple[float, float]]]:
    """Width, height and every point of a chart, whatever element it is in."""
    parsed = Page(drawing)
    box = next(parsed.named("svg"))["viewbox"].split()
    points: list[tuple[float, float]] = []
    for name, a in parsed.tags:
        if name == "path":
            found = [float(n) for n in re.findall(r"[-+0-9.einfa]+", re.sub("[MLZ]", " ", a["d"]))]
            points += zip(found[::2], found[1::2], strict=True)
        if name in ("line", "circle", "rect", "text"):
            for x, y in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")):
                if x in a:
                    points.append((float(a[x]), float(a[y])))
        if name == "rect":
            points.append((float(a["x"]) + float(a["width"]), float(a["y"]) + float(a["height"])))
    return float(box[2]), float(box[3]), points


SERIES = {
    "falling": (3.0, 2.0, 1.0),
    "constant": (0.25,) * 9,
    "zero": (0.0,) * 3,
    "one point": (0.7,),
    "none": (),
    "gaps": (nan, 1.0, None, 4.0, inf, 2.0, 2.5),
    "tiny": (1e-7, 2e-7, 3e-7),
    "large": (1e9, 3e9, 2e9),
    "overflow": (1e308, -1e308, 5.0, 6.0),
    "negative": (-5.0, -4.0, -1.0),
    "nearly constant": (1.0, 1.0 + 1e-15),
    "long": tuple(float((k * 7919) % 1000) for k in range(20_000)),
}


@pytest.mark.parametrize("name", SERIES)
def test_line_chart_stays_in_its_frame(name: str) -> None:
    drawing = line_chart(panel(line(*SERIES[name]), mark=r.Mark(x=1, label="kept")))
    width, height, points = coordinates(drawing)
    assert points
    for x, y in points:
        assert isfinite(x) and isfinite(y) and 0 <= x <= width and 0 <= y <= height, (x, y)
    assert len(drawing) < 20_000


def test_line_chart_puts_values_where_the_axis_says() -> None:
    drawing = line_chart(panel(line(0.0, 10.0, 5.0)))
    path = next(a["d"] for a in Page(drawing).named("path"))
    (x0, y0), (x1, y1), (x2, y2) = (
        tuple(map(float, pair.split())) for pair in path.strip("M").split(" L")
    )
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0 and (y0 + y1) / 2 == pytest.approx(y2, abs=0.2)
    assert not list(Page(drawing).named("circle"))


def test_line_chart_breaks_at_gaps_and_dots_lone_points() -> None:
    drawing = Page(line_chart(panel(line(1.0, None, 2.0, 3.0, nan, 4.0, 5.0))))
    assert len(list(drawing.named("path"))) == 2 and len(list(drawing.named("circle"))) == 1
    assert len(list(Page(line_chart(panel(line(0.7)))).named("circle"))) == 1
    assert "No values were recorded." in line_chart(panel(line(nan, None)))


def test_thinning_keeps_the_extremes() -> None:
    values = [1.0] * 5000
    values[1234], values[4321] = 90.0, -40.0
    drawing = line_chart(panel(line(*values)))
    path = next(a["d"] for a in Page(drawing).named("path"))
    heights = [float(pair.split()[1]) for pair in path.strip("M").split(" L")]
    assert len(heights) <= MAX_POINTS + 1
    assert heights.count(min(heights)) == 1 and heights.count(max(heights)) == 1
    assert min(heights) < heights[0] < max(heights)


def test_end_labels_do_not_overlap_or_leave() -> None:
    series = [line(1.0, 1.0 + k / 1000, name=f"series {k}") for k in range(6)]
    drawing = Page(line_chart(panel(*series)))
    labels = [a for a in drawing.named("text") if "label" in a["class"].split()]
    heights = sorted(float(a["y"]) for a in labels)
    assert len(labels) == 6
    assert all(b - a >= 12.9 for a, b in pairwise(heights))


def test_charts_are_described() -> None:
    page = Page(render_report(full()))
    drawings = list(page.named("svg"))
    assert len(drawings) >= 8
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    titles = sum(name == "title" for name, _ in page.tags) - 1  # less the page's own
    assert titles == len(drawings) == sum(name == "desc" for name, _ in page.tags)


@pytest.mark.parametrize("value", [0.0, 0.0648, 1.0, nan, None])
def test_score_dots_stay_in_their_frame(value: float | None) -> None:
    system = r.System(name="x" * 80, role="fused", scores={"HR@10": r.Score(value=value)})
    width, height, points = coordinates(charts.score_dots([system] * 3, "HR@10"))
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.parametrize(
    "counts", [(1,), (0, 0), (), (5, 0, 1), tuple(range(4096)), (10**9, 1)], ids=str
)
def test_usage_curve_stays_in_its_frame(counts: tuple[int, ...]) -> None:
    level = r.CodebookLevel(modality="text", level=0, counts=counts)
    width, height, points = coordinates(charts.usage_curve(level, max(counts, default=0)))
    assert all(0 <= x <= width + 0.1 and 0 <= y <= height for x, y in points)
    assert len(points) < 1000


def test_bars_and_columns_stay_in_their_frame() -> None:
    none = r.Collisions(
        modality="image", rate_before=None, rate_after=None, moved=None, group_sizes={}
    )
    drawings = (
        charts.stage_bars({"a": 0.0, "b": 1324.0, "c": nan}),
        charts.group_sizes(replace(none, group_sizes={2: 0, 3: 1_204_331, 60: 1})),
        charts.group_sizes(none),
    )
    for drawing in drawings:
        width, height, points = coordinates(drawing)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_codebook_figures() -> None:
    even = r.CodebookLevel(modality="text", level=0, counts=(3, 3, 3, 3))
    half = replace(even, counts=(8, 8, 0, 0))
    none = replace(even, counts=(0, 0))
    assert even.usage == (1.0, pytest.approx(4), 0.0, 0.25)
    assert half.usage == (0.5, pytest.approx(2), 0.5, 0.5)
    assert none.usage == (0.0, 0.0, 0.0, 0.0)


def test_group_bins_count_every_group() -> None:
    sizes = {2: 31, 3: 9, 7: 2, 12: 1, 44: 1, 900: 2}
    bins = group_bins(sizes)
    assert sum(bins.values()) == sum(sizes.values())
    assert bins["6–9"] == 2 and bins["50+"] == 2 and bins["4"] == 0
    assert list(group_bins({2: 1})) == ["2"] and group_bins({}) == {}


def test_axis_ticks_are_round_and_cover_the_data() -> None:
    shown = axis([0.0312, 0.0648], 0, 100, zero=True)
    assert [round(t, 6) for t in shown.ticks] == [0, 0.02, 0.04, 0.06, 0.08]
    assert shown.at(0.04) == pytest.approx(50)
    assert [numbers.tick(t, shown.step) for t in shown.ticks][:2] == ["0", "0.02"]
    assert axis([25, 40], 0, 1, whole=True, tight=True).ticks == (25, 30, 35, 40)
    assert spread([5.0, 5.0, 5.0], 2.0, 0.0, 6.0) == [2.0, 4.0, 6.0]
