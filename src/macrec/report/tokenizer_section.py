"""The report's section of tokenizer measures: tables and charts, level by level."""

from collections.abc import Callable, Sequence
from typing import Final

from macrec.report import numbers, tables
from macrec.report.contents import Agreement, Panel, Prefix, Report, Role, Score, Series, Tokenizer
from macrec.report.lines import line_chart
from macrec.report.markup import Raw, el

HEADS: Final = ("Left over", "Neighbours", "All items", "Lift", "Validation lift")
AGREEMENT_HEADS: Final = ("Agreement", "Adjusted")
LEAD: Final = (
    "Left over, neighbours and all items: of the codes as quantized. Lift and agreement: of the "
    "final ones, after collisions were resolved."
)
KEY: Final = {
    "Left over": "how much of what tells the items' vectors apart these codes lose; good when it "
    "falls with every code.",
    "Neighbours": "of the ten items most alike in the encoder's eyes, the share that has the same "
    "first codes; good when it is many times the next column.",
    "All items": "share of the whole catalogue with the same first codes, which is what items "
    "picked blindly would score.",
    "Lift": "how many times more often than by chance two items that one shopper took one after "
    "the other have the same first codes; 1 says the codes know nothing of shopping, and the "
    "further above 1 the more a recommender can gain. Compare runs with codebooks of one size: "
    "finer codes have more lift. It is of the training items, \u00b1 one standard error; no two "
    "items share all codes, so the last row has none.",
    "Validation lift": "the same for the step to an item that training never saw; good when near "
    "the lift.",
    "Agreement": "how far an item's text code tells its picture code, 0 nothing to 1 everything; "
    "neither is wrong, low means that the two say different things. Adjusted takes off what "
    "many small codes agree by chance, so it is the one to compare between runs.",
}


def measures(report: Report) -> list[Raw]:
    """Render the tables of both modalities, the charts, and the meaning of each figure."""
    shown = [_table(t) for t in report.tokenizers if t.prefixes]
    if report.agreement:
        shown.append(_agreement(report.agreement))
    if not shown:
        return []
    drawn = [
        el("figure", el("figcaption", panel.title), line_chart(panel)) for panel in panels(report)
    ]
    told = [el("li", el("b", name), ": ", meaning) for name, meaning in key(report).items()]
    return [
        el("h3", "What the codes say"),
        el("p", LEAD, class_="quiet"),
        el("div", shown, class_="pairs"),
        el("ul", told, class_="notes quiet"),
        el("div", drawn, class_="charts"),
    ]


def key(report: Report) -> dict[str, str]:
    """Return the meaning of each figure that is shown."""
    absent = set() if report.agreement else {"Agreement"}
    return {name: meaning for name, meaning in KEY.items() if name not in absent}


def prefix_rows(measured: Tokenizer) -> list[list[str]]:
    """Return a row per prefix length: its name, then a cell per column of HEADS."""
    return [
        [
            f"first {count}" if count < len(measured.prefixes) else f"all {count}",
            numbers.percent(p.unexplained),
            numbers.percent(p.recall),
            numbers.percent(p.candidates, 2),
            _lift(p.lift),
            _lift(p.validation_lift),
        ]
        for count, p in enumerate(measured.prefixes[: tables.MAX_LEVELS], 1)
    ]


def agreement_rows(levels: Sequence[Agreement]) -> list[list[str]]:
    """Return a row per level: its name, then a cell per column of AGREEMENT_HEADS."""
    return [
        [f"level {level}", numbers.decimal(a.mutual, 3), numbers.decimal(a.adjusted, 3)]
        for level, a in enumerate(levels[: tables.MAX_LEVELS])
    ]


def panels(report: Report) -> list[Panel]:
    """Return charts by prefix length and by level; charts without values are omitted."""
    drawn = [
        _panel(report, "Left over of the vectors, %", 100, lambda p: _percent(p.unexplained)),
        _panel(report, "Neighbours with the same codes, %", 100, lambda p: _percent(p.recall)),
        _panel(report, "Lift of consecutive items", 1, lambda p: p.lift.value),
        Panel(
            title="Agreement of text and picture codes",
            x_label="level",
            y_label="0 to 1",
            series=(
                _series("plain", "other", [a.mutual for a in report.agreement]),
                _series("adjusted", "other", [a.adjusted for a in report.agreement]),
            ),
        ),
    ]
    return [p for p in drawn if any(numbers.usable(y) for series in p.series for y in series.y)]


def _panel(
    report: Report, title: str, without: float, value: Callable[[Prefix], float | None]
) -> Panel:
    """Return a panel with a line per modality, from no code to all codes.

    `without` is the value for no code, which is the same for every modality.
    """
    series: list[Series] = []
    for measured in report.tokenizers:
        values = [value(prefix) for prefix in measured.prefixes]
        if any(map(numbers.usable, values)):
            series.append(_series(measured.modality, measured.modality, [without, *values]))
    name, _, unit = title.partition(", ")
    y_label = unit or "times chance"
    return Panel(title=name, x_label="codes kept", y_label=y_label, series=tuple(series))


def _series(name: str, role: Role, values: Sequence[float | None]) -> Series:
    return Series(name=name, x=tuple(map(float, range(len(values)))), y=tuple(values), role=role)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _lift(score: Score) -> str:
    """Format a lift as 4.9 \u00b1 0.2, with only the decimals that the error makes meaningful."""
    error = None if score.value is None or score.high is None else score.high - score.value
    if error is None or not numbers.usable(error):
        return numbers.decimal(score.value, 1)
    places = 2 if error < 0.1 else 1 if error < 1 else 0
    return f"{numbers.decimal(score.value, places)} \u00b1 {numbers.decimal(error, places)}"


def _table(measured: Tokenizer) -> Raw:
    return _drawn(f"{measured.modality.capitalize()} codes", "Codes", HEADS, prefix_rows(measured))


def _agreement(levels: Sequence[Agreement]) -> Raw:
    name = "Text codes and image codes"
    return _drawn(name, "Level", AGREEMENT_HEADS, agreement_rows(levels))


def _drawn(name: str, first: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Raw:
    head = el(
        "tr",
        el("th", first, scope="col", class_="left"),
        [el("th", told, scope="col") for told in heads],
    )
    body = [
        el("tr", el("th", row[0], scope="row"), [el("td", cell) for cell in row[1:]])
        for row in rows
    ]
    table = el("table", el("caption", name), el("thead", head), el("tbody", body))
    return tables.scrolling(name, table)
