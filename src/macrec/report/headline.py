"""The headline of the report: up to four tiles of figures, which both renderers print."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from macrec.report import numbers
from macrec.report.contents import Report, Role, Score, System

ARROW = "\N{RIGHTWARDS ARROW}"


class Figure(NamedTuple):
    """A number with its caption, which is the modality or empty."""

    value: str
    caption: str
    role: Role


class Tile(NamedTuple):
    """A few figures under one label, with lines to compare them with."""

    label: str
    figures: tuple[Figure, ...]
    lines: tuple[str, ...]


def headline(report: Report) -> tuple[Tile, ...]:
    """Return the tiles for which the report has figures."""
    tiles = [_score(report, "HR@10"), _score(report, "NDCG@10"), _collisions(report), _use(report)]
    return tuple(tile for tile in tiles if tile is not None)


def value_of(system: System, name: str) -> float | None:
    """Return the system's score, or None if it is missing or not finite."""
    value = system.scores.get(name, Score(value=None)).value
    return value if numbers.usable(value) else None


def best(systems: Sequence[System], name: str) -> System | None:
    """Return the system with the highest score of that name; the first system wins a tie."""
    scored = [s for s in systems if value_of(s, name) is not None]
    return max(scored, key=lambda s: value_of(s, name) or 0.0, default=None)


def _score(report: Report, name: str) -> Tile | None:
    fused = [s for s in report.systems if s.role == "fused" and value_of(s, name) is not None]
    single = best([s for s in report.systems if s.role in ("text", "image")], name)
    shown = fused[-1] if fused else single or best(report.systems, name)
    if shown is None:
        return None
    score = shown.scores[name]
    popular = next((s for s in report.systems if s.role == "baseline"), None)
    lines: list[str] = []
    if numbers.usable(score.low) and numbers.usable(score.high):
        low, high = numbers.metric(score.low), numbers.metric(score.high)
        lines.append(f"95 % interval {low}{numbers.DASH}{high}")
    for other in (single, popular):
        if other is not None and other is not shown:
            gain = numbers.change(score.value, value_of(other, name))
            lines.append(f"{gain} over {_lower(other.name)}")
    label = f"{name}, {_lower(shown.name)}"
    return Tile(label, (Figure(numbers.metric(score.value), "", shown.role),), tuple(lines))


def _collisions(report: Report) -> Tile | None:
    if not report.collisions:
        return None
    figures = tuple(
        Figure(
            f"{numbers.percent(c.rate_before)} {ARROW} {numbers.percent(c.rate_after)}",
            c.modality,
            c.modality,
        )
        for c in report.collisions
    )
    known = [c for c in report.collisions if c.moved is not None]
    moved = " and ".join(f"{numbers.count(c.moved)} {c.modality}" for c in known)
    return Tile("Collisions, before and after", figures, (f"{moved} codes moved",) if known else ())


def _use(report: Report) -> Tile | None:
    modalities: list[Literal["text", "image"]] = sorted(
        {level.modality for level in report.codebooks}, reverse=True
    )
    if not modalities:
        return None
    figures: list[Figure] = []
    first: list[str] = []
    for modality in modalities:
        levels = [level for level in report.codebooks if level.modality == modality]
        size = sum(level.size for level in levels)
        share = sum(level.used for level in levels) / size if size else None
        figures.append(Figure(numbers.percent(share), modality, modality))
        coarsest = min(levels, key=lambda level: level.level)
        worth = numbers.decimal(coarsest.perplexity)
        first.append(f"{worth} of {numbers.count(coarsest.size)} {modality}")
    lowest = min(level.level for level in report.codebooks)
    lines = (f"level {lowest} perplexity: {', '.join(first)}",)
    return Tile("Codes in use", tuple(figures), lines)


def _lower(name: str) -> str:
    """Return a name for use inside a sentence, in lower case except for acronyms."""
    return name if name[:2].isupper() else name[:1].lower() + name[1:]
