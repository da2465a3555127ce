"""Charts: bars, columns, scores with intervals, and curves of codebook use."""

from collections.abc import Mapping, Sequence
from typing import Any

from macrec.report import numbers
from macrec.report.contents import CodebookLevel, Role, Score, System
from macrec.report.markup import Raw, clean, el, join
from macrec.report.scale import Axis, axis
from macrec.report.svg import at, colour, empty, picture, text


def score_dots(systems: Sequence[System], name: str) -> Raw:
    """Draw one row per system: the score as a dot, its 95 % interval as a line, and the number."""
    width, row, left, right, top = 500.0, 30.0, 152.0, 52.0, 8.0
    rows = [(s, s.scores.get(name, Score(value=None))) for s in systems]
    ends = [v for _, s in rows for v in (s.value, s.low, s.high) if v is not None]
    known = [v for v in ends if numbers.usable(v)]
    if not known:
        return empty(name, "No scores.", width, 60.0)
    height = top + row * len(rows) + 36
    across = axis(known, left, width - right, zero=True)
    bottom = top + row * len(rows)
    drawn = [
        _score_row(system, score, across, top + row * (k + 0.5), width)
        for k, (system, score) in enumerate(rows)
    ]
    ticks = [
        [
            el("line", x1=at(across.at(t)), x2=at(across.at(t)), y1=top, y2=bottom, class_="grid"),
            text(across.at(t), bottom + 15, numbers.tick(t, across.step), "tick", "middle"),
        ]
        for t in across.ticks
    ]
    told = "; ".join(f"{clean(s.name, 60)} {numbers.metric(score.value)}" for s, score in rows)
    label = text((left + width - right) / 2, bottom + 31, name, "axis-name", "middle")
    return picture(width, height, f"{name} by system", told, ticks, drawn, label)


def columns(groups: Mapping[str, int], title: str, x_label: str, role: Role) -> Raw:
    """Draw a few labelled columns, each with its count on top."""
    width, height, top, bottom = 310.0, 160.0, 18.0, 38.0
    if not groups:
        return empty(title, "No groups.", width, 60.0)
    up = axis([float(n) for n in groups.values()], height - bottom, top, zero=True, tight=True)
    step = width / max(5, len(groups))
    bars: list[Raw] = []
    for k, (name, number) in enumerate(groups.items()):
        y, middle = up.at(number), (k + 0.5) * step
        size = {"x": at(middle - step * 0.32), "width": at(step * 0.64)}
        height_of = max(1.0, up.start - y) if number else 0.0
        bars += [
            el(
                "rect",
                **size,
                y=at(up.start - height_of),
                height=at(height_of),
                class_=f"fill {colour(role)}",
            ),
            text(middle, up.start - height_of - 5, numbers.short(number), "value", "middle"),
            text(middle, up.start + 15, name, "tick", "middle"),
        ]
    told = "; ".join(f"{name}: {numbers.count(number)}" for name, number in groups.items())
    base = el(
        "line", x1=0, x2=at(step * len(groups)), y1=at(up.start), y2=at(up.start), class_="base"
    )
    label = text(step * len(groups) / 2, height - 4, x_label, "axis-name", "middle")
    return picture(width, height, title, told, bars, base, label)


def bars(lengths: Mapping[str, float], title: str) -> Raw:
    """Draw one horizontal bar per stage, with its name on the left and the time on the right."""
    width, row, left, right = 500.0, 24.0, 150.0, 84.0
    known = {k: v for k, v in lengths.items() if numbers.usable(v) and v >= 0}
    longest = max(known.values(), default=0.0) or 1.0
    drawn: list[Raw] = []
    for k, (name, value) in enumerate(lengths.items()):
        y = k * row + row / 2
        reach = max(1.0, known.get(name, 0.0) / longest * (width - left - right))
        drawn += [
            text(left - 10, y + 4, clean(name, 22), "name", "end"),
            el("rect", x=left, y=at(y - 6), width=at(reach), height=12, class_="fill bar"),
            text(left + reach + 7, y + 4, numbers.duration(value), "value"),
        ]
    told = "; ".join(f"{clean(k, 60)} {numbers.duration(v)}" for k, v in lengths.items())
    return picture(width, row * max(1, len(lengths)), title, told, drawn)


def usage_curve(level: CodebookLevel, most: int) -> Raw:
    """Draw the items per code, most used first, on a scale up to `most`.

    A dashed line shows even use.
    """
    width, height, base = 118.0, 30.0, 29.0
    ordered = sorted(level.counts, reverse=True)
    if not sum(ordered):
        return empty(f"Level {level.level}", "unused", width, height)
    shown = ordered
    if len(ordered) > 236:
        shown = [ordered[round(k * (len(ordered) - 1) / 235)] for k in range(236)]
    step = width / len(shown)
    path = [f"M0 {base:.1f}"]
    for k, number in enumerate(shown):
        y = at(base - (base - 2) * number / max(1, most))
        path.append(f"L{k * step:.1f} {y} L{(k + 1) * step:.1f} {y}")
    path.append(f"L{width:.1f} {base:.1f} Z")
    even = base - (base - 2) * (sum(ordered) / len(ordered)) / max(1, most)
    told = f"{level.used} of {level.size} codes in use, the largest holds {ordered[0]:,} items."
    return picture(
        width, height, f"{level.modality}, level {level.level}: items per code", told,
        el("path", d=" ".join(path), class_=f"fill usage s-{level.modality}"),
        el("line", x1=0, x2=width, y1=at(even), y2=at(even), class_="even"),
    )  # fmt: skip


def _score_row(system: System, score: Score, across: Axis, y: float, width: float) -> Raw:
    tint = colour(system.role)
    weight = " strong" if system.role == "fused" else ""
    parts: list[Any] = [
        text(across.start - 12, y + 4, clean(system.name, 22), "name" + weight, "end")
    ]
    if score.value is None or not numbers.usable(score.value):
        parts.append(text(across.start + 6, y + 4, numbers.DASH, "value"))
        return join(parts)
    x = across.at(score.value)
    if score.low is not None and score.high is not None and numbers.usable(score.low + score.high):
        low, high = across.at(score.low), across.at(score.high)
        parts.append(
            el("line", x1=at(low), x2=at(high), y1=at(y), y2=at(y), class_=f"range {tint}")
        )
    parts.append(el("circle", cx=at(x), cy=at(y), r=4.5, class_=f"dot {tint}"))
    parts.append(text(width, y + 4, numbers.metric(score.value), "value" + weight, "end"))
    return join(parts)
