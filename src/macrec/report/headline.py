"""The headline of the report: up to four tiles of figures."""

from collections.abc import Sequence
from typing import NamedTuple

from macrec.report import numbers
from macrec.report.contents import Modality, Report, Role, System

ARROW = "\N{RIGHTWARDS ARROW}"


class Figure(NamedTuple):
    """A number with its caption, which is the modality or empty."""

    value: str
    caption: str
    role: Role


class Tile(NamedTuple):
    """A few figures under one label, with lines to compare them with."""

    label: str
    figures: list[Figure]
    lines: list[str]


def headline(report: Report) -> list[Tile]:
    """Return the tiles for which the report has figures."""
    tiles = [_score(report, "HR@10"), _score(report, "NDCG@10")]
    return [t for t in (*tiles, _collisions(report), _codes_in_use(report)) if t is not None]


def best_system(systems: Sequence[System], name: str) -> System | None:
    """Return the system with the highest score of that name; the first system wins a tie."""
    scored = [s for s in systems if numbers.usable(s.score(name).value)]
    return max(scored, key=lambda s: s.score(name).value or 0.0, default=None)


def _score(report: Report, name: str) -> Tile | None:
    """Compare the last fused system with the best single modality and the first baseline."""
    scored = [s for s in report.systems if numbers.usable(s.score(name).value)]
    fused = [s for s in scored if s.role == "fused"]
    single = best_system([s for s in scored if s.role in ("text", "image")], name)
    shown = fused[-1] if fused else single or best_system(scored, name)
    if shown is None:
        return None
    score = shown.score(name)
    lines: list[str] = []
    if score.has_interval:
        low, high = numbers.metric(score.low), numbers.metric(score.high)
        lines.append(f"95 % interval {low}{numbers.DASH}{high}")
    baseline = next((s for s in report.systems if s.role == "baseline"), None)
    for other in (single, baseline):
        if other is not None and other is not shown:
            gain = numbers.change(score.value, other.score(name).value)
            lines.append(f"{gain} over {_lower(other.name)}")
    figure = Figure(numbers.metric(score.value), "", shown.role)
    return Tile(f"{name}, {_lower(shown.name)}", [figure], lines)


def _collisions(report: Report) -> Tile | None:
    if not report.collisions:
        return None
    figures: list[Figure] = []
    for c in report.collisions:
        before, after = numbers.percent(c.rate_before), numbers.percent(c.rate_after)
        figures.append(Figure(f"{before} {ARROW} {after}", c.modality, c.modality))
    moved = [
        f"{numbers.count(c.moved)} {c.modality}" for c in report.collisions if c.moved is not None
    ]
    lines = [f"{' and '.join(moved)} codes moved"] if moved else []
    return Tile("Collisions, before and after", figures, lines)


def _codes_in_use(report: Report) -> Tile | None:
    figures: list[Figure] = []
    perplexities: list[str] = []
    modalities: tuple[Modality, ...] = ("text", "image")
    for modality in modalities:
        levels = [level for level in report.codebooks if level.modality == modality]
        if levels:
            size = sum(level.size for level in levels)
            share = sum(level.used for level in levels) / size if size else None
            figures.append(Figure(numbers.percent(share), modality, modality))
            first = min(levels, key=lambda level: level.level)
            perplexity = numbers.decimal(first.usage.perplexity)
            perplexities.append(f"{perplexity} of {numbers.count(first.size)} {modality}")
    if not figures:
        return None
    lowest = min(level.level for level in report.codebooks)
    return Tile("Codes in use", figures, [f"level {lowest} perplexity: {', '.join(perplexities)}"])


def _lower(name: str) -> str:
    """Return a name for use inside a sentence, in lower case except for acronyms."""
    return name if name[:2].isupper() else name[:1].lower() + name[1:]
