"""The tables of the page, with scopes and captions for screen readers."""

from collections.abc import Mapping, Sequence

from macrec.report import charts, numbers
from macrec.report.contents import (
    CUTOFFS,
    METRICS,
    ArtifactDigest,
    CodebookLevel,
    Collisions,
    Score,
    System,
)
from macrec.report.headline import best
from macrec.report.markup import Raw, clean, el, join

CODEBOOK_KEY = (
    "Curves: items per code, most used code first, one vertical scale for all; dashed: even use. "
    "Perplexity is the number of evenly used codes that the usage is worth, good near the number "
    "of codes. Gini is 0 when all codes hold equally many items and near 1 when a few hold nearly "
    "all, good below 0.5."
)
COLLISION_KEY = (
    "Rate: share of the items that had to get another code, so that each has its own; good below "
    "10 %. Moved at level: the moved items by the first level that changed, level 0 first; good "
    "when all are at the last. Distance: how far a moved item went, in units of how far items are "
    "from their own codes anyway; good near 1 or below."
)
MAX_ROWS = 200
MAX_LEVELS = 16


def results(systems: Sequence[System]) -> Raw:
    """Render a table with a row per system and a column per metric; each column's best is bold."""
    shown = systems[:40]
    groups = score_columns(shown)
    names = [name for _, group in groups for name in group]
    best_of = {name: best(shown, name) for name in names}
    intervals = any(s.low is not None for row in shown for s in row.scores.values())
    rows = [
        el(
            "tr",
            el(
                "th",
                el("span", class_=f"swatch s-{system.role}"),
                clean(system.name, 60),
                scope="row",
            ),
            [
                _score(system.scores.get(n, Score(value=None)), best_of[n] is system, n, groups)
                for n in names
            ],
            class_="fused" if system.role == "fused" else None,
        )
        for system in shown
    ]
    key = "Bold: best of its column."
    if intervals:
        key += " Small: half the width of the 95 % interval."
    table = el(
        "table", _metric_heads(groups), el("tbody", rows), class_="results", aria_label="Results"
    )
    return join([el("p", key, class_="quiet"), scrolling("Results of every system", table)])


def _metric_heads(groups: list[tuple[str, list[str]]]) -> Raw:
    names = [name for _, group in groups for name in group]
    return el(
        "thead",
        el(
            "tr",
            el("td"),
            [el("th", metric, scope="colgroup", colspan=len(group)) for metric, group in groups],
        ),
        el(
            "tr",
            el("th", "System", scope="col", class_="left"),
            [el("th", f"@{_cutoff(n)}", scope="col", class_=_first(n, groups)) for n in names],
        ),
    )


def score_columns(systems: Sequence[System]) -> list[tuple[str, list[str]]]:
    """Return [("HR", ["HR@1", ...]), ...]: the columns that at least one system has."""
    groups: list[tuple[str, list[str]]] = []
    for metric in METRICS:
        names = [f"{metric}@{k}" for k in CUTOFFS]
        present = [name for name in names if any(name in s.scores for s in systems)]
        if present:
            groups.append((metric, present))
    return groups


def codebook(modality: str, levels: Sequence[CodebookLevel], most: int) -> Raw:
    """Render a table with one row per level, each with its usage curve."""
    name = f"{modality.capitalize()} codes"
    if not levels:
        # The catalogue has no images, or the run uses one modality only.
        return el("div", el("p", f"No {modality} codes in this run.", class_="quiet"))
    rows = [
        el(
            "tr",
            el("th", str(level.level), scope="row"),
            el("td", f"{level.used:,} of {level.size:,}"),
            el("td", numbers.decimal(level.perplexity)),
            el("td", numbers.decimal(level.gini, 2)),
            el("td", numbers.percent(level.largest_share)),
            el("td", charts.usage_curve(level, most), class_="curve"),
        )
        for level in sorted(levels, key=lambda level: level.level)[:MAX_LEVELS]
    ]
    heads = ("Level", "Used", "Perplexity", "Gini", "Largest", "Items per code")
    head = el(
        "tr",
        [el("th", h, scope="col", class_="left" if h == "Level" else None) for h in heads],
    )
    return scrolling(name, el("table", el("caption", name), el("thead", head), el("tbody", rows)))


def collisions(shown: Sequence[Collisions]) -> Raw:
    """Render the collision rates before and after resolution."""
    rows = [
        el(
            "tr",
            el("th", el("span", class_=f"swatch s-{c.modality}"), c.modality, scope="row"),
            el("td", numbers.percent(c.rate_before, 2)),
            el("td", numbers.percent(c.rate_after, 2)),
            el("td", numbers.count(c.moved)),
            el("td", numbers.count(sum(c.group_sizes.values()))),
            el("td", numbers.count(max(c.group_sizes, default=0))),
            el("td", ", ".join(map(numbers.count, c.moved_by_level)) or numbers.DASH),
            el("td", numbers.decimal(c.displacement, 2)),
        )
        for c in shown
    ]
    heads = (
        *("Modality", "Rate before", "Rate after", "Items moved", "Groups", "Largest group"),
        *("Moved at level", "Distance"),
    )
    head = el(
        "tr",
        [el("th", h, scope="col", class_="left" if h == "Modality" else None) for h in heads],
    )
    table = el("table", el("thead", head), el("tbody", rows), class_="narrow")
    return scrolling("Collisions", table)


def parameters(values: Mapping[str, str]) -> Raw:
    """Render names and values; the part before the first dot is shown once per group."""
    rows: list[Raw] = []
    previous = None
    parted = [((n.partition(".") if "." in n else ("", "", n)), v) for n, v in values.items()]
    for (group, _, rest), value in sorted(parted)[:MAX_ROWS]:
        told = clean(group, 60) if group != previous else ""
        previous = group
        rows.append(
            el(
                "tr",
                el("td", told, class_="left"),
                el("th", el("code", clean(rest, 80)), scope="row"),
                el("td", el("code", clean(value, 160) or numbers.DASH), class_="wrap"),
            )
        )
    head = el("tr", [el("th", h, scope="col", class_="left") for h in ("Part", "Name", "Value")])
    return scrolling("Parameters", el("table", el("thead", head), el("tbody", rows)))


def artifacts(shown: Sequence[ArtifactDigest]) -> Raw:
    """Render the name, rows and digest of each input."""
    rows = [
        el(
            "tr",
            el("th", clean(a.name, 80), scope="row"),
            el("td", numbers.count(a.rows)),
            el("td", el("code", clean(a.digest, 100)), class_="wrap"),
        )
        for a in shown[:MAX_ROWS]
    ]
    head = el(
        "tr",
        el("th", "Artifact", scope="col", class_="left"),
        el("th", "Rows", scope="col"),
        el("th", "Digest", scope="col", class_="left"),
    )
    return scrolling("Inputs", el("table", el("thead", head), el("tbody", rows)))


def scrolling(name: str, table: Raw) -> Raw:
    """Put a table in its own scrollable box."""
    # The box is focusable, so that a wide table can be scrolled with the keyboard.
    return el("div", table, class_="scroll", role="region", aria_label=name, tabindex="0")


def _score(score: Score, is_best: bool, name: str, groups: list[tuple[str, list[str]]]) -> Raw:
    half = None
    if score.low is not None and score.high is not None:
        half = (score.high - score.low) / 2
    small = el("small", f"\u00b1{numbers.metric(half)}") if numbers.usable(half) else None
    kind = " ".join(k for k in ("best" if is_best else "", _first(name, groups) or "") if k)
    return el("td", numbers.metric(score.value), small, class_=kind or None)


def _cutoff(name: str) -> str:
    return name.partition("@")[2]


def _first(name: str, groups: list[tuple[str, list[str]]]) -> str | None:
    """Return the CSS class of a metric's first column, which has extra space before it."""
    return "group" if any(group[0] == name for _, group in groups) else None
