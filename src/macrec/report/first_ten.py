"""The report's tables of the first ten places, by system and by group of users."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from macrec.report import numbers, tables
from macrec.report.contents import Group, Score, System
from macrec.report.markup import Raw, clean, el, join

FIRST: Final = "The first ten places"
GROUPS: Final = "Groups of users"
SCORES: Final = ("HR@10", "NDCG@10")
SHOWN: Final = {
    "Coverage": "share of the catalogue that stands in the first ten places of somebody's list.",
    "Gini": "how unevenly the items of the catalogue are shown there: 0 when all are shown equally "
    "often, near 1 when a few take every place.",
    "Novelty": "mean of -log2 p over what is shown, in bits, p being an item's share of the "
    "training interactions, each item given one more; one bit more is an item half as popular.",
}
BY: Final = {
    "popularity": (
        "Next item's popularity",
        "head are the most popular items in training, to one third of the training interactions, "
        "middle the next to two thirds, tail the others that were met, unseen those that were "
        "not. Items of equal popularity are in one group.",
    ),
    "history": ("History length", "items before the one to foretell."),
    "text": ("Next item's text", "whether it has text codes."),
    "image": ("Next item's picture", "whether it has picture codes."),
}
MAX_SYSTEMS: Final = 40
MAX_GROUPS: Final = 60


def scored(scores: Mapping[str, Score]) -> list[str]:
    """Return a cell for each of SCORES, with the interval in brackets if there is one."""
    return [f"{value} {told}".strip() for value, told in _with_intervals(scores)]


def shown(system: System) -> list[str]:
    """Return a cell for each of SHOWN."""
    if system.shown is None:
        return [numbers.DASH] * len(SHOWN)
    return [
        numbers.percent(system.shown.coverage),
        numbers.decimal(system.shown.gini, 3),
        numbers.decimal(system.shown.novelty, 2),
    ]


def title(by: str) -> str:
    """Return the title of a grouping."""
    return BY[by][0] if by in BY else by


def meanings(found: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """Return the title and the meaning of every grouping that is present."""
    present = {group.by for group in found}
    return (told for by, told in BY.items() if by in present)


def systems_of(found: Sequence[Group]) -> list[str]:
    """Return the systems that any group has scores of, in order of first occurrence."""
    return list(dict.fromkeys(name for group in found for name in group.scores))


def systems(ranked: Sequence[System]) -> Raw:
    """Render HR@10 and NDCG@10 with intervals, and the measures of SHOWN, for every system."""
    rows = [
        el(
            "tr",
            el("th", el("span", class_=f"swatch s-{s.role}"), clean(s.name, 60), scope="row"),
            _cells(s.scores),
            [el("td", cell) for cell in shown(s)],
            class_="fused" if s.role == "fused" else None,
        )
        for s in ranked[:MAX_SYSTEMS]
    ]
    head = el("tr", _heads("System", [*SCORES, *SHOWN]))
    table = el("table", el("thead", head), el("tbody", rows), class_="results")
    return join([el("h3", FIRST), tables.scrolling(FIRST, table), _key(SHOWN.items())])


def groups(found: Sequence[Group]) -> Raw | None:
    """Render a table with a row per group and a section per grouping."""
    names = systems_of(found)
    if not names:
        return None
    across = el(
        "tr",
        el("td", colspan=2),
        [
            el("th", clean(n, 60), scope="colgroup", colspan=len(SCORES), class_="right")
            for n in names
        ],
    )
    heads = el("tr", _heads("Next item or history", ["Users", *(s for _ in names for s in SCORES)]))
    bodies = [
        el(
            "tbody",
            el("tr", el("th", title(by), scope="rowgroup", colspan=2 + len(SCORES) * len(names))),
            [
                el(
                    "tr",
                    el("th", clean(group.name, 60), scope="row"),
                    el("td", numbers.count(group.users)),
                    [_cells(group.scores.get(name, {})) for name in names],
                )
                for group in members
            ],
        )
        for by, members in groupby(found[:MAX_GROUPS], key=lambda group: group.by)
    ]
    table = el("table", el("thead", across, heads), bodies, class_="results")
    return join([el("h3", GROUPS), tables.scrolling(GROUPS, table), _key(meanings(found))])


def _key(told: Iterable[tuple[str, str]]) -> Raw:
    lines = [el("li", el("b", name), ": ", meaning) for name, meaning in told]
    return el("ul", lines, class_="notes quiet")


def _heads(first: str, others: Sequence[str]) -> list[Raw]:
    return [
        el("th", name, scope="col", class_="left" if k == 0 else None)
        for k, name in enumerate([first, *others])
    ]


def _cells(scores: Mapping[str, Score]) -> list[Raw]:
    return [
        el("td", value, el("small", told) if told else None)
        for value, told in _with_intervals(scores)
    ]


def _with_intervals(scores: Mapping[str, Score]) -> list[tuple[str, str]]:
    found = [scores.get(name, Score(value=None)) for name in SCORES]
    return [(numbers.metric(score.value), _interval(score.low, score.high)) for score in found]


def _interval(low: float | None, high: float | None) -> str:
    if not numbers.usable(low) or not numbers.usable(high):
        return ""
    if low == high:  # all users have the same score, so resampling gives no interval
        return ""
    return f"({numbers.metric(low)}{numbers.DASH}{numbers.metric(high)})"
