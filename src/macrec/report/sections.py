"""The sections of the page, in reading order.

A section without figures is omitted or states that it has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from macrec.report import charts, churn_section, first_ten, numbers, tables, tokenizer_section
from macrec.report.contents import Collisions, Panel, Report
from macrec.report.headline import Tile
from macrec.report.lines import line_chart
from macrec.report.markup import Raw, clean, el

SHOWN_SCORES = {
    "HR@10": "Users whose next item is among the first 10",
    "NDCG@10": "The same, weighted by its rank",
}
MAX_PANELS = 16
MAX_SERIES = 6


def tiles(shown: Sequence[Tile]) -> Raw | None:
    """Render the headline."""
    drawn: list[Raw] = []
    for tile in shown:
        pair = any(figure.caption for figure in tile.figures)
        figures = [
            el(
                "p",
                el("small", f.caption, class_=f"tint s-{f.role}") if pair else None,
                " " if pair else None,
                f.value,
                class_="figure pair" if pair else "figure",
            )
            for f in tile.figures
        ]
        lines = [el("p", clean(line), class_="quiet") for line in tile.lines]
        drawn.append(el("div", el("h2", clean(tile.label, 60)), figures, lines, class_="tile"))
    return el("section", drawn, class_="tiles", aria_label="Headline") if drawn else None


def results(report: Report) -> Raw:
    """Render the scores of every system: two charts, then tables."""
    users = f" Means over {numbers.count(report.users)} test users." if report.users else ""
    lead = f"Full ranking of the catalogue, last item of each user held out.{users}"
    if not report.systems:
        return part("Results", lead, el("p", "No system was evaluated.", class_="quiet"))
    dots = [
        el("figure", el("figcaption", told), charts.score_dots(report.systems[:20], name))
        for name, told in SHOWN_SCORES.items()
    ]
    shown = el("div", dots, class_="charts wide")
    return part(
        "Results",
        lead,
        shown,
        first_ten.systems(report.systems),
        el("h3", "All figures"),
        tables.results(report.systems),
        first_ten.groups(report.groups),
    )


def data(report: Report) -> Raw | None:
    """Render the counts of the data set."""
    if not report.facts:
        return None
    pairs = [
        el(
            "div",
            el("dt", clean(fact.label, 60)),
            el(
                "dd",
                clean(numbers.fact(fact.value), 80),
                el("small", clean(fact.note, 120)) if fact.note else None,
            ),
        )
        for fact in report.facts[:60]
    ]
    return part("Data", "What the run was given.", el("dl", pairs, class_="facts"))


def codes(report: Report) -> Raw | None:
    """Render changes of semantic IDs, codebook use, tokenizer measures and collisions."""
    if not (report.codebooks or report.collisions or report.tokenizers or report.churn):
        return None
    parts: list[Any] = [*churn_section.section(report.churn)]
    if report.codebooks:
        most = max((max(level.counts, default=0) for level in report.codebooks), default=0)
        drawn = [
            tables.codebook(modality, [v for v in report.codebooks if v.modality == modality], most)
            for modality in ("text", "image")
        ]
        parts += [
            el("h3", "Codebook use"),
            el("div", drawn, class_="pairs"),
            el("p", tables.CODEBOOK_KEY, class_="quiet"),
        ]
    parts += tokenizer_section.measures(report)
    if report.collisions:
        drawn = [_collisions(c) for c in report.collisions]
        parts += [
            el("h3", "Collisions"),
            tables.collisions(report.collisions),
            el("p", tables.COLLISION_KEY, class_="quiet"),
            el("div", drawn, class_="charts"),
        ]
    lead = "Each item is one code per level and modality; no two items have the same codes."
    return part("Semantic IDs", lead, *parts)


def training(report: Report) -> Raw | None:
    """Render the curves of both models and of the fusion weight."""
    groups = (
        ("Quantizer", report.quantizer_panels),
        ("Generator", report.generator_panels),
        ("Fusion", report.fusion_panels),
    )
    parts = [
        [el("h3", name), el("div", [_panel(p) for p in panels[:MAX_PANELS]], class_="charts")]
        for name, panels in groups
        if panels
    ]
    return part("Training", "Dashed verticals mark what was kept.", *parts) if parts else None


def run(report: Report) -> Raw | None:
    """Render the time per stage, the parameters and the digests of the inputs."""
    parts: list[Raw] = []
    if report.stage_seconds:
        seconds = dict(list(report.stage_seconds.items())[:40])
        total = sum(s for s in seconds.values() if numbers.usable(s))
        heading = el("figcaption", f"Time per stage, {numbers.duration(total)} in all")
        chart = charts.bars(seconds, "Seconds per stage")
        parts.append(el("div", el("figure", heading, chart), class_="charts wide"))
    if report.parameters:
        told = f"{len(report.parameters):,} values"
        parts.append(_fold("Parameters", told, tables.parameters(report.parameters)))
    if report.artifacts:
        told = f"{len(report.artifacts):,} artifacts"
        parts.append(_fold("Inputs and digests", told, tables.artifacts(report.artifacts)))
    return part("Run", "What it took, and what it was made from.", *parts) if parts else None


def part(title: str, lead: str, *children: Any) -> Raw:
    """Render a section, with its name and a sentence in the margin and its content beside them."""
    heading = el("header", el("h2", title), el("p", lead))
    return el("section", heading, el("div", *children), class_="part", aria_label=title)


def _fold(title: str, told: str, *children: Any) -> Raw:
    return el("details", el("summary", title, " ", el("small", told)), el("div", *children))


def _panel(panel: Panel) -> Raw:
    caption = el("figcaption", clean(panel.title, 120))
    short = Panel(
        title=panel.title, x_label=panel.x_label, y_label=panel.y_label,
        series=panel.series[:MAX_SERIES], mark=panel.mark,
    )  # fmt: skip
    return el("figure", caption, line_chart(short))


def _collisions(collisions: Collisions) -> Raw:
    title = f"Groups of items sharing one {collisions.modality} code, before resolution"
    chart = charts.columns(
        group_bins(collisions.group_sizes), title, "items in the group", collisions.modality
    )
    return el("figure", el("figcaption", title), chart)


def group_bins(sizes: Mapping[int, int]) -> dict[str, int]:
    """Count group sizes in a few bins: 2, 3, 4, 5, 6-9, 10-19, ... up to the largest."""
    edges = [(2, 2), (3, 3), (4, 4), (5, 5), (6, 9), (10, 19), (20, 49), (50, None)]
    bins: dict[str, int] = {}
    largest = max((size for size, number in sizes.items() if number > 0), default=0)
    for low, high in edges:
        if low > largest:
            break
        name = f"{low}+" if high is None else str(low) if low == high else f"{low}\u2013{high}"
        bins[name] = sum(n for s, n in sizes.items() if s >= low and (high is None or s <= high))
    return bins
