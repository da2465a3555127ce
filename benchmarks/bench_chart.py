"""Draws quality against time as a stand-alone SVG: one point per system, logarithmic time axis."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from macrec.report import numbers
from macrec.report.markup import Raw, clean, el
from macrec.report.scale import Axis, axis, spread
from macrec.report.svg import at, text

PAPER: Final = (
    "svg{background:#fdfcfa}text{font:11px system-ui,sans-serif;fill:#66625b}"
    ".grid{stroke:#ebe8e1}.base{stroke:#b9b4aa}"
)
"""CSS of the background and the basic colours. Viewers show the file on light or dark pages, so it
defines both."""
STYLE: Final = Raw(
    f"<style>{PAPER}.name{{fill:#1d1c1a}}.own{{font-weight:600}}"
    ".axis-name{font-size:12px}.dot{fill:#77726a}.dot.own{fill:#1f5fa8}"
    ".lead{fill:none;stroke:#77726a;stroke-width:.6;opacity:.45}.lead.own{stroke:#1f5fa8}"
    ".range{stroke:#77726a;stroke-width:1.2;opacity:.55}.range.own{stroke:#1f5fa8}</style>"
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800.0, 420.0, 54.0, 280.0, 44.0, 46.0
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
        LEFT, WIDTH - RIGHT,
    )  # fmt: skip
    ends = [value for point in points for value in (point.low, point.high)]
    up = axis(ends, HEIGHT - BOTTOM, TOP, zero=True)
    grid: list[Raw] = []
    for tick in up.ticks:
        y = at(up.at(tick))
        grid += [
            el("line", x1=at(LEFT), x2=at(WIDTH - RIGHT), y1=y, y2=y, class_="grid"),
            text(LEFT - 8, up.at(tick) + 4, numbers.tick(tick, up.step), "tick", "end"),
        ]
    for power in range(int(across.low), int(across.high) + 1):
        x = across.at(power)
        grid += [
            el("line", x1=at(x), x2=at(x), y1=at(TOP), y2=at(HEIGHT - BOTTOM), class_="grid"),
            text(x, HEIGHT - BOTTOM + 16, f"{10.0**power:,g}", "tick", "middle"),
        ]
    drawn: list[Raw] = []
    named = spread([up.at(p.quality) for p in points], LINE, TOP, HEIGHT - BOTTOM)
    for point, log, label in zip(points, logs, named, strict=True):
        x, y, own = across.at(log), up.at(point.quality), " own" if point.own else ""
        ends_y = {"y1": at(up.at(point.low)), "y2": at(up.at(point.high))}
        edge = WIDTH - RIGHT
        drawn += [
            el("path", d=f"M{at(x)} {at(y)}L{at(edge)} {at(y)}L{at(edge + 14)} {at(label)}",
               class_=f"lead{own}"),
            el("line", x1=at(x), x2=at(x), **ends_y, class_=f"range{own}"),
            el("circle", cx=at(x), cy=at(y), r=4, class_=f"dot{own}"),
            text(edge + 18, label + 4, point.name, f"name{own}"),
        ]  # fmt: skip
    middle = (LEFT + WIDTH - RIGHT) / 2
    words = [
        text(LEFT - 40, 16, title, "name"),
        text(middle, HEIGHT - 8, x_label, "axis-name", "middle"),
        text(LEFT - 40, TOP - 12, y_label, "axis-name"),
    ]
    told = "; ".join(f"{p.name} {numbers.metric(p.quality)}" for p in points)
    return el(
        "svg", el("title", clean(title, 120)), el("desc", clean(told, 1200)), STYLE,
        *grid, *drawn, *words,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
    )  # fmt: skip
