"""Line charts: losses, validation scores, fusion weights and measures of the codes."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from macrec.report import numbers, svg
from macrec.report.contents import Mark, Panel, Series
from macrec.report.escaping import clean
from macrec.report.scale import Axis, axis, spread

MAX_POINTS = 200
WIDTH, HEIGHT = 310.0, 216.0


class Point(NamedTuple):
    """A point of a series; y is None in a gap."""

    x: float
    y: float | None


def line_chart(panel: Panel) -> Markup:
    """Draw the series over common axes, with their names at their ends.

    The panel's mark is a dashed vertical line.
    """
    lines = [thin_points(series) for series in panel.series]
    points = [point for line in lines for point in line if point.y is not None]
    values = [point.y for point in points if point.y is not None]
    if not values:
        return svg.empty(panel.title, "No values were recorded.", WIDTH, 96.0)
    names = [clean(series.name, 18) for series in panel.series] if len(lines) > 1 else []
    room = max(map(len, names), default=0) * svg.BOLD_LETTER + 8
    up = axis(values, HEIGHT - 40, 40.0 if panel.mark else 26.0)
    left = max(len(numbers.tick(t, up.step)) for t in up.ticks) * svg.LETTER + 14
    positions = [point.x for point in points]
    whole = all(float(x).is_integer() for x in positions)
    across = axis(positions, left, WIDTH - room, tight=True, whole=whole)
    tints = [svg.colour(series.role, k) for k, series in enumerate(panel.series)]
    return svg.drawing(
        WIDTH, HEIGHT, panel.title, _description(panel),
        _grid(across, up),
        svg.text(0, 11, clean(panel.y_label, 44), "axis-name"),
        svg.text((left + WIDTH - room) / 2, HEIGHT - 4, clean(panel.x_label, 36), "axis-name",
             "middle"),
        _mark(panel.mark, across, up),
        *(_line(line, across, up, tint) for line, tint in zip(lines, tints, strict=True)),
        _end_labels(lines, names, tints, up, WIDTH - room + 7),
    )  # fmt: skip


def thin_points(series: Series) -> list[Point]:
    """Return the points in x order; a long series is reduced to the extremes of each stretch."""
    pairs = zip(series.x, series.y, strict=True)
    points = [Point(x, y if numbers.usable(y) else None) for x, y in pairs if numbers.usable(x)]
    points.sort(key=lambda point: point.x)
    if len(points) <= MAX_POINTS:
        return points
    stretch = -(-len(points) * 2 // MAX_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = [p for p in points[start : start + stretch] if p.y is not None]
        if part:
            extremes = {min(part, key=lambda p: p.y or 0.0), max(part, key=lambda p: p.y or 0.0)}
            kept += sorted(extremes)
    return kept if points[-1] in kept[-2:] else [*kept, points[-1]]


def _line(line: Sequence[Point], across: Axis, up: Axis, tint: str) -> Markup:
    """Draw the stretches between gaps; a single point is a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((across.at(x), up.at(y)))
    return svg.NOTHING.join(
        svg.circle(*run[0], 3, f"dot {tint}")
        if len(run) == 1
        else svg.path("M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in run), f"line {tint}")
        for run in runs
        if run
    )


def _grid(across: Axis, up: Axis) -> Markup:
    shapes: list[Markup] = []
    for t in up.ticks:
        shapes.append(svg.horizontal(across.start, across.end, up.at(t), "grid"))
        label = numbers.tick(t, up.step)
        shapes.append(svg.text(across.start - 7, up.at(t) + 4, label, "tick", "end"))
    for t in across.ticks:
        shapes.append(svg.vertical(across.at(t), up.start, up.start + 4, "base"))
        label = numbers.tick(t, across.step)
        shapes.append(svg.text(across.at(t), up.start + 16, label, "tick", "middle"))
    return svg.NOTHING.join([*shapes, svg.horizontal(across.start, across.end, up.start, "base")])


def _mark(mark: Mark | None, across: Axis, up: Axis) -> Markup:
    if mark is None or not across.low <= mark.x <= across.high:
        return svg.NOTHING
    x, label = across.at(mark.x), clean(mark.label, 30)
    half = len(label) * svg.LETTER / 2
    middle = min(max(x, half), max(half, across.end + 8 - half))
    line = svg.vertical(x, up.end - 6, up.start, "mark")
    return line + svg.text(middle, up.end - 11, label, "mark-name", "middle")


def _end_labels(
    lines: Sequence[Sequence[Point]], names: Sequence[str], tints: Sequence[str],
    up: Axis, x: float,
) -> Markup:  # fmt: skip
    """Write the names of the series that have values; `names` is empty for a single series."""
    ends: list[tuple[str, str, float]] = []
    for line, name, tint in zip(lines, names, tints, strict=bool(names)):
        values = [point.y for point in line if point.y is not None]
        if values:
            ends.append((name, tint, up.at(values[-1])))
    heights = spread([y for _, _, y in ends], 13, up.end, up.start)
    return svg.NOTHING.join(
        svg.text(x, y + 4, name, f"name label {tint}")
        for (name, tint, _), y in zip(ends, heights, strict=True)
    )


def _description(panel: Panel) -> str:
    sentences = [f"{panel.y_label} over {panel.x_label}."]
    for series in panel.series:
        known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if numbers.usable(y)]
        if known:
            (first_x, first), (last_x, last) = known[0], known[-1]
            sentences.append(
                f"{clean(series.name, 60)}: {numbers.metric(first)} at {first_x:g},"
                f" {numbers.metric(last)} at {last_x:g}."
            )
    if panel.mark:
        sentences.append(f"{clean(panel.mark.label, 60)} at {panel.mark.x:g}.")
    return " ".join(sentences)
