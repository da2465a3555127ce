"""Draws quality against time as a stand-alone SVG: one point per system, logarithmic time axis."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from macrec.report import numbers
from macrec.report.escaping import clean
from macrec.report.scale import Axis, axis, spread
from macrec.report.svg import NOTHING, circle, horizontal, path, text, vertical

PAPER: Final = (
    "svg{background:#fdfcfa}text{font:11px system-ui,sans-serif;fill:#66625b}"
    ".grid{stroke:#ebe8e1}.base{stroke:#b9b4aa}"
)
"""CSS of the background and the basic colours. Viewers show the file on light or dark pages, so it
defines both."""
STYLE: Final = Markup(
    f"<style>{PAPER}.name{{fill:#1d1c1a}}.own{{font-weight:600}}"
    ".axis-name{font-size:12px}.dot{fill:#77726a}.dot.own{fill:#1f5fa8}"
    ".lead{fill:none;stroke:#77726a;stroke-width:.6;opacity:.45}.lead.own{stroke:#1f5fa8}"
    ".range{stroke:#77726a;stroke-width:1.2;opacity:.55}.range.own{stroke:#1f5fa8}</style>"
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800.0, 420.0, 54.0, 280.0, 44.0, 46.0
EDGE: Final = WIDTH - RIGHT
"""Right end of the time axis."""
LINE = 14.0
"""Height of a label."""


class Point(NamedTuple):
    """Data of one system."""

    name: str
    seconds: float
    quality: float
    low: float
    high: float
    own: bool
    """Whether the system is one of ours."""


def chart(points: Sequence[Point], title: str, x_label: str, y_label: str) -> str:
    """Return the SVG.

    The names are on the right, connected to their points. The vertical line of a point is its
    confidence interval.

    Args:
        points: one or more points; seconds must be above 0.
        title: title of the chart.
        x_label: label of the time axis.
        y_label: label of the quality axis.
    """
    logs = [math.log10(point.seconds) for point in points]
    across = Axis(
        math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1), 1.0, (),
        LEFT, EDGE,
    )  # fmt: skip
    ends = [value for point in points for value in (point.low, point.high)]
    up = axis(ends, HEIGHT - BOTTOM, TOP, zero=True)
    shapes = _grid(across, up)
    heights = spread([up.at(p.quality) for p in points], LINE, TOP, HEIGHT - BOTTOM)
    for point, log, height in zip(points, logs, heights, strict=True):
        x, y, own = across.at(log), up.at(point.quality), " own" if point.own else ""
        lead = f"M{x:.1f} {y:.1f}L{EDGE:.1f} {y:.1f}L{EDGE + 14:.1f} {height:.1f}"
        shapes += [
            path(lead, f"lead{own}"),
            vertical(x, up.at(point.low), up.at(point.high), f"range{own}"),
            circle(x, y, 4, f"dot{own}"),
            text(EDGE + 18, height + 4, point.name, f"name{own}"),
        ]
    shapes += [
        text(LEFT - 40, 16, title, "name"),
        text((LEFT + EDGE) / 2, HEIGHT - 8, x_label, "axis-name", "middle"),
        text(LEFT - 40, TOP - 12, y_label, "axis-name"),
    ]
    description = "; ".join(f"{p.name} {numbers.metric(p.quality)}" for p in points)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:g} {:g}">'
        "<title>{}</title><desc>{}</desc>{}{}</svg>"
    ).format(
        WIDTH, HEIGHT, clean(title, 120), clean(description, 1200), STYLE, NOTHING.join(shapes)
    )  # fmt: skip


def _grid(across: Axis, up: Axis) -> list[Markup]:
    shapes: list[Markup] = []
    for tick in up.ticks:
        shapes.append(horizontal(LEFT, EDGE, up.at(tick), "grid"))
        shapes.append(text(LEFT - 8, up.at(tick) + 4, numbers.tick(tick, up.step), "tick", "end"))
    for power in range(int(across.low), int(across.high) + 1):
        x = across.at(power)
        shapes.append(vertical(x, TOP, HEIGHT - BOTTOM, "grid"))
        label = f"{10.0**power:,g}"
        shapes.append(text(x, HEIGHT - BOTTOM + 16, label, "tick", "middle"))
    return shapes
