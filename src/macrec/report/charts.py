"""Charts with bars, dots and areas: scores, collisions, stage times and codebook use."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from macrec.report import numbers, svg
from macrec.report.contents import CodebookLevel, Collisions, Score, System
from macrec.report.escaping import clean
from macrec.report.scale import Axis, axis

BINS = ((2, 2), (3, 3), (4, 4), (5, 5), (6, 9), (10, 19), (20, 49), (50, None))
"""First and last size of the groups of items that a column counts."""


def score_dots(systems: Sequence[System], name: str) -> Markup:
    """Draw one row per system: the score as a dot, its 95 % interval as a line, and the number."""
    width, row, left, right, top = 500.0, 30.0, 152.0, 52.0, 8.0
    scores = [system.score(name) for system in systems]
    ends = [end for score in scores for end in (score.value, score.low, score.high)]
    known = [end for end in ends if end is not None and numbers.usable(end)]
    if not known:
        return svg.empty(name, "No scores.", width, 60.0)
    bottom = top + row * len(systems)
    across = axis(known, left, width - right, zero=True)
    shapes: list[Markup] = []
    for t in across.ticks:
        x = across.at(t)
        shapes.append(svg.vertical(x, top, bottom, "grid"))
        shapes.append(svg.text(x, bottom + 15, numbers.tick(t, across.step), "tick", "middle"))
    for k, (system, score) in enumerate(zip(systems, scores, strict=True)):
        shapes.append(_score_row(system, score, across, top + row * (k + 0.5), width))
    shapes.append(svg.text((left + width - right) / 2, bottom + 31, name, "axis-name", "middle"))
    description = "; ".join(
        f"{clean(system.name, 60)} {numbers.metric(score.value)}"
        for system, score in zip(systems, scores, strict=True)
    )
    return svg.drawing(width, bottom + 36, f"{name} by system", description, *shapes)


def _score_row(system: System, score: Score, across: Axis, y: float, width: float) -> Markup:
    tint, weight = svg.colour(system.role), " strong" if system.role == "fused" else ""
    name = svg.text(across.start - 12, y + 4, clean(system.name, 22), f"name{weight}", "end")
    if score.value is None or not numbers.usable(score.value):
        return name + svg.text(across.start + 6, y + 4, numbers.DASH, "value")
    interval = svg.NOTHING
    if numbers.usable(score.low) and numbers.usable(score.high):
        low, high = (across.at(end or 0.0) for end in (score.low, score.high))
        interval = svg.horizontal(low, high, y, f"range {tint}")
    dot = svg.circle(across.at(score.value), y, 4.5, f"dot {tint}")
    value = svg.text(width, y + 4, numbers.metric(score.value), f"value{weight}", "end")
    return name + interval + dot + value


def group_sizes(collisions: Collisions) -> Markup:
    """Draw the number of groups of items with equal codes, by size of the group."""
    width, height, top, bottom = 310.0, 160.0, 18.0, 38.0
    title = f"Groups of items with equal {collisions.modality} codes, before resolution"
    groups = group_bins(collisions.group_sizes)
    if not groups:
        return svg.empty(title, "No groups.", width, 60.0)
    up = axis([float(n) for n in groups.values()], height - bottom, top, zero=True, tight=True)
    step = width / max(5, len(groups))
    shapes: list[Markup] = []
    for k, (name, number) in enumerate(groups.items()):
        middle, tall = (k + 0.5) * step, max(1.0, up.start - up.at(number)) if number else 0.0
        kind = f"fill {svg.colour(collisions.modality)}"
        shapes += [
            svg.rectangle(middle - step * 0.32, up.start - tall, step * 0.64, tall, kind),
            svg.text(middle, up.start - tall - 5, numbers.short(number), "value", "middle"),
            svg.text(middle, up.start + 15, name, "tick", "middle"),
        ]
    end = step * len(groups)
    shapes.append(svg.horizontal(0, end, up.start, "base"))
    shapes.append(svg.text(end / 2, height - 4, "items in the group", "axis-name", "middle"))
    description = "; ".join(f"{name}: {numbers.count(n)}" for name, n in groups.items())
    return svg.drawing(width, height, title, description, *shapes)


def group_bins(sizes: Mapping[int, int]) -> dict[str, int]:
    """Return the number of groups in each of BINS, up to the largest group."""
    largest = max((size for size, number in sizes.items() if number), default=0)
    bins: dict[str, int] = {}
    for low, high in BINS:
        if low <= largest:
            name = f"{low}+" if high is None else str(low) if low == high else f"{low}–{high}"
            inside = (n for size, n in sizes.items() if low <= size <= (high or size))
            bins[name] = sum(inside)
    return bins


def stage_bars(seconds: Mapping[str, float]) -> Markup:
    """Draw one horizontal bar per stage, with its name on the left and the time on the right."""
    width, row, left, right = 500.0, 24.0, 150.0, 84.0
    lengths = [s if numbers.usable(s) and s > 0 else 0.0 for s in seconds.values()]
    longest = max(lengths, default=0.0) or 1.0
    shapes: list[Markup] = []
    for k, ((name, value), length) in enumerate(zip(seconds.items(), lengths, strict=True)):
        y, reach = (k + 0.5) * row, max(1.0, length / longest * (width - left - right))
        shapes += [
            svg.text(left - 10, y + 4, clean(name, 22), "name", "end"),
            svg.rectangle(left, y - 6, reach, 12, "fill bar"),
            svg.text(left + reach + 7, y + 4, numbers.duration(value), "value"),
        ]
    description = "; ".join(f"{clean(k, 60)} {numbers.duration(v)}" for k, v in seconds.items())
    return svg.drawing(width, row * max(1, len(seconds)), "Seconds per stage", description, *shapes)


def usage_curve(level: CodebookLevel, most: int) -> Markup:
    """Draw the items per code, most used code first; the vertical scale ends at `most` items.

    A dashed line shows even use.
    """
    width, height, base = 118.0, 30.0, 29.0
    ordered = sorted(level.counts, reverse=True)
    if not sum(ordered):
        return svg.empty(f"Level {level.level}", "unused", width, height)
    shown = ordered
    if len(ordered) > 236:  # two steps per user unit are enough
        shown = [ordered[round(k * (len(ordered) - 1) / 235)] for k in range(236)]
    step, scale = width / len(shown), (base - 2) / max(1, most)
    steps = [
        f"L{k * step:.1f} {base - scale * n:.1f} L{(k + 1) * step:.1f} {base - scale * n:.1f}"
        for k, n in enumerate(shown)
    ]
    area = f"M0 {base:.1f} {' '.join(steps)} L{width:.1f} {base:.1f} Z"
    return svg.drawing(
        width, height, f"{level.modality}, level {level.level}: items per code",
        f"{level.used} of {level.size} codes in use, the largest holds {ordered[0]:,} items.",
        svg.path(area, f"fill usage s-{level.modality}"),
        svg.horizontal(0, width, base - scale * sum(ordered) / len(ordered), "even"),
    )  # fmt: skip
