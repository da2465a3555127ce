"""Line charts: losses, validation scores, the fusion weight."""

from collections.abc import Sequence
from typing import NamedTuple

from macrec.report import numbers
from macrec.report.contents import Panel, Series
from macrec.report.markup import Raw, clean, el, join
from macrec.report.scale import Axis, axis, spread
from macrec.report.svg import BOLD_LETTER, LETTER, at, colour, empty, picture, text

MAX_POINTS = 200


class Point(NamedTuple):
    """A position in the picture."""

    x: float
    y: float


def line_chart(panel: Panel) -> Raw:
    """Draw lines over a common axis, with their names at their ends.

    The panel's mark is a dashed vertical line.
    """
    width, height = 310.0, 216.0
    kept = [(series, _thinned(series)) for series in panel.series]
    values = [y for _, points in kept for _, y in points if y is not None]
    positions = [x for _, points in kept for x, y in points if y is not None]
    if not values:
        return empty(panel.title, "No values were recorded.", width, 96.0)
    names = [clean(series.name, 18) for series, _ in kept] if len(kept) > 1 else []
    room = max((len(name) for name in names), default=0) * BOLD_LETTER + 8 if names else 8
    top = 40.0 if panel.mark else 26.0
    vertical = axis(values, height - 40, top)
    left = max(len(numbers.tick(t, vertical.step)) for t in vertical.ticks) * LETTER + 14
    middle = (left + width - room) / 2
    whole = all(float(x).is_integer() for x in positions)
    horizontal = axis(positions, left, width - room, tight=True, whole=whole)
    lines = [
        _line(points, horizontal, vertical, colour(series.role, k))
        for k, (series, points) in enumerate(kept)
    ]
    return picture(
        width, height, panel.title, _described(panel),
        _grid(horizontal, vertical),
        text(0, 11, clean(panel.y_label, 44), "axis-name"),
        text(middle, height - 4, clean(panel.x_label, 36), "axis-name", "middle"),
        _mark(panel, horizontal, vertical),
        lines,
        _end_labels(kept, names, vertical, width - room + 7),
    )  # fmt: skip


def _line(points: Sequence[tuple[float, float | None]], across: Axis, up: Axis, tint: str) -> Raw:
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append(Point(across.at(x), up.at(y)))
    drawn: list[Raw] = []
    for run in runs:
        if len(run) == 1:
            drawn.append(el("circle", cx=at(run[0].x), cy=at(run[0].y), r=3, class_=f"dot {tint}"))
        elif run:
            path = " L".join(f"{p.x:.1f} {p.y:.1f}" for p in run)
            drawn.append(el("path", d=f"M{path}", class_=f"line {tint}"))
    return join(drawn)


def _grid(across: Axis, up: Axis) -> Raw:
    parts: list[Raw] = []
    for t in up.ticks:
        y = up.at(t)
        parts.append(
            el("line", x1=at(across.start), x2=at(across.end), y1=at(y), y2=at(y), class_="grid")
        )
        parts.append(text(across.start - 7, y + 4, numbers.tick(t, up.step), "tick", "end"))
    for t in across.ticks:
        x, y = across.at(t), up.start
        parts.append(el("line", x1=at(x), x2=at(x), y1=at(y), y2=at(y + 4), class_="base"))
        parts.append(text(x, y + 16, numbers.tick(t, across.step), "tick", "middle"))
    ends = {"x1": at(across.start), "x2": at(across.end)}
    return join([parts, el("line", **ends, y1=at(up.start), y2=at(up.start), class_="base")])


def _mark(panel: Panel, across: Axis, up: Axis) -> Raw | None:
    if panel.mark is None or not across.low <= panel.mark.x <= across.high:
        return None
    x = across.at(panel.mark.x)
    half = len(clean(panel.mark.label, 30)) * LETTER / 2
    middle = min(max(x, half), max(half, across.end + 8 - half))
    return join(
        [
            el("line", x1=at(x), x2=at(x), y1=at(up.end - 6), y2=at(up.start), class_="mark"),
            text(middle, up.end - 11, clean(panel.mark.label, 30), "mark-name", "middle"),
        ]
    )


def _end_labels(
    kept: Sequence[tuple[Series, list[tuple[float, float | None]]]],
    names: Sequence[str], up: Axis, x: float,
) -> Raw:  # fmt: skip
    lasts: list[tuple[int, float]] = []
    for k in range(len(names)):
        ys = [y for _, y in kept[k][1] if y is not None]
        if ys:
            lasts.append((k, up.at(ys[-1])))
    heights = spread([y for _, y in lasts], 13, up.end, up.start)
    return join(
        text(x, y + 4, names[k], f"name label {colour(kept[k][0].role, k)}")
        for (k, _), y in zip(lasts, heights, strict=True)
    )


def _thinned(series: Series) -> list[tuple[float, float | None]]:
    """Return the points in x order; reduce a long series to the extremes of each stretch."""
    points = [
        (x, y if numbers.usable(y) else None)
        for x, y in zip(series.x, series.y, strict=True)
        if numbers.usable(x)
    ]
    points.sort(key=lambda point: point[0])
    if len(points) <= MAX_POINTS:
        return points
    stretch = -(-len(points) * 2 // MAX_POINTS)
    kept: list[tuple[float, float | None]] = []
    for start in range(0, len(points), stretch):
        part = [p for p in points[start : start + stretch] if p[1] is not None]
        if part:
            extremes = {min(part, key=lambda p: p[1] or 0.0), max(part, key=lambda p: p[1] or 0.0)}
            kept += sorted(extremes)
    last = points[-1]
    return kept if last in kept[-2:] else [*kept, last]


def _described(panel: Panel) -> str:
    told: list[str] = [f"{panel.y_label} over {panel.x_label}."]
    for series in panel.series:
        known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if numbers.usable(y)]
        if known:
            first, last = known[0], known[-1]
            told.append(
                f"{clean(series.name, 60)}: {numbers.metric(first[1])} at {first[0]:g},"
                f" {numbers.metric(last[1])} at {last[0]:g}."
            )
    if panel.mark:
        told.append(f"{clean(panel.mark.label, 60)} at {panel.mark.x:g}.")
    return " ".join(told)
