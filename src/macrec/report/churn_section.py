"""The report's section about changes of semantic IDs since an earlier run."""

from collections.abc import Sequence
from typing import Final

from macrec.report import numbers, tables
from macrec.report.contents import IdChurn
from macrec.report.markup import Raw, clean, el

TITLE: Final = "Since the earlier run"
HEADS: Final = ("Kept", "Moved", "New", "Gone", "Churn")
KEY: Final = (
    "Items by what became of their ID. Moved: another ID than in the earlier run. New: none there. "
    "Gone: none here. Churn: share of the IDs of items in both runs that moved; 0 % with a frozen "
    "quantizer and unchanged items, near 100 % after a training of the quantizer, whose codes are "
    "then other ones."
)


def rows(shown: Sequence[IdChurn]) -> list[list[str]]:
    """Return a row per modality: its name, then a cell per column of HEADS."""
    return [
        [c.modality, *map(numbers.count, (c.kept, c.moved, c.new, c.gone)), _share(c)]
        for c in shown
    ]


def _share(churn: IdChurn) -> str:
    both = churn.kept + churn.moved
    return numbers.percent(churn.moved / both, 2) if both else numbers.DASH


def section(shown: Sequence[IdChurn]) -> list[Raw]:
    """Render heading, table and key; return nothing if there is no earlier run."""
    if not shown:
        return []
    heads = [el("th", "Modality", scope="col", class_="left")]
    heads += [el("th", head, scope="col") for head in HEADS]
    body = [
        el(
            "tr",
            el("th", el("span", class_=f"swatch s-{row[0]}"), clean(row[0], 20), scope="row"),
            [el("td", cell) for cell in row[1:]],
        )
        for row in rows(shown)
    ]
    table = el("table", el("thead", el("tr", heads)), el("tbody", body), class_="narrow")
    return [
        el("h3", TITLE),
        tables.scrolling(TITLE, table),
        el("p", KEY, class_="quiet"),
    ]
