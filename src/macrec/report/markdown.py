"""Render the report as Markdown tables, for a terminal, a pull request or KFP's viewer."""

import re
from collections.abc import Sequence

from macrec.report import churn_section, first_ten, numbers, tokenizer_section
from macrec.report.contents import Example, Panel, Report, Score
from macrec.report.headline import headline
from macrec.report.markup import clean
from macrec.report.tables import COLLISION_KEY, score_columns

ACTIVE = re.compile(r"([\\`*_\[\]()#~|!])")
MAX_EXAMPLES = 12
MAX_ROWS = 400


def render_markdown(report: Report) -> str:
    """Render headline, results, data, codes, a summary of each curve, examples and inputs."""
    blocks = [f"# {escape(report.title) or 'Run report'}", escape(report.subtitle)]
    blocks += [_headline(report), *(escape(note, 600) for note in report.notes[:20])]
    blocks += _results(report) + _data(report) + _codes(report) + _training(report)
    blocks += _examples(report.examples) + _run(report)
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str, limit: int = 300) -> str:
    """Return external text on one line, with all Markdown and HTML syntax escaped."""
    line = clean(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = ACTIVE.sub(r"\\\1", line).replace("://", r"\://").replace("www.", r"www\.")
    # At the start of a line, these would begin a list or underline a heading.
    return re.sub(r"^([-+=](?=[-+=\s]|$)|\d+(?=[.)](?:\s|$)))", lambda m: _guard(m[1]), line)


def _guard(head: str) -> str:
    return f"&#{ord(head[0])};{head[1:]}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table, with the first column left-aligned and the others right-aligned.

    Cells must already be escaped.
    """
    if not rows:
        return ""
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _headline(report: Report) -> str:
    lines: list[str] = []
    for tile in headline(report):
        figures = ", ".join(f"{f.caption} {f.value}".strip() for f in tile.figures)
        told = "; ".join(tile.lines)
        lines.append(
            f"- **{escape(tile.label)}**: {figures}" + (f" ({escape(told, 600)})" if told else "")
        )
    return "\n".join(lines)


def _results(report: Report) -> list[str]:
    names = [name for _, group in score_columns(report.systems) for name in group]
    rows: list[list[str]] = []
    for system in report.systems[:40]:
        scores = [system.scores.get(name, Score(value=None)) for name in names]
        rows.append([escape(system.name), *(numbers.metric(score.value) for score in scores)])
    if not rows:
        return ["## Results", "No system was evaluated."]
    tested = f"{numbers.count(report.users)} test users." if report.users else ""
    blocks = ["## Results", tested, table(["System", *names], rows)]
    return blocks + _first_places(report) + _groups(report)


def _first_places(report: Report) -> list[str]:
    rows = [
        [escape(system.name), *first_ten.scored(system.scores), *first_ten.shown(system)]
        for system in report.systems[: first_ten.MAX_SYSTEMS]
    ]
    return [
        f"### {first_ten.FIRST}",
        table(["System", *first_ten.SCORES, *first_ten.SHOWN], rows),
        "\n".join(f"- {name}: {meaning}" for name, meaning in first_ten.SHOWN.items()),
    ]


def _groups(report: Report) -> list[str]:
    names = first_ten.systems_of(report.groups)
    if not names:
        return []
    heads = ["Group", "Users", *(f"{escape(n)}, {s}" for n in names for s in first_ten.SCORES)]
    rows = [
        [
            escape(f"{first_ten.title(group.by)}: {group.name}"),
            numbers.count(group.users),
            *(cell for name in names for cell in first_ten.scored(group.scores.get(name, {}))),
        ]
        for group in report.groups[: first_ten.MAX_GROUPS]
    ]
    told = [f"- {title}: {meaning}" for title, meaning in first_ten.meanings(report.groups)]
    return [f"### {first_ten.GROUPS}", table(heads, rows), "\n".join(told)]


def _data(report: Report) -> list[str]:
    rows = [[escape(f.label), escape(numbers.fact(f.value)), escape(f.note)] for f in report.facts]
    return ["## Data", table(["", "Value", "Note"], rows)] if rows else []


def _codes(report: Report) -> list[str]:
    used = [
        [
            f"{v.modality} {v.level}",
            f"{v.used:,} of {v.size:,}",
            numbers.percent(v.utilisation),
            numbers.decimal(v.perplexity),
            numbers.decimal(v.gini, 2),
            numbers.percent(v.largest_share),
        ]
        for v in report.codebooks
    ]
    collided = [
        [
            c.modality,
            numbers.percent(c.rate_before, 2),
            numbers.percent(c.rate_after, 2),
            numbers.count(c.moved),
            ", ".join(f"{n:,} of {size}" for size, n in sorted(c.group_sizes.items())[:12])
            or numbers.DASH,
            ", ".join(map(numbers.count, c.moved_by_level)) or numbers.DASH,
            numbers.decimal(c.displacement, 2),
        ]
        for c in report.collisions
    ]
    blocks: list[str] = []
    if report.churn:
        rows = churn_section.rows(report.churn)
        blocks += [
            f"### {churn_section.TITLE}",
            table(["Modality", *churn_section.HEADS], rows),
            churn_section.KEY,
        ]
    if used:
        heads = ["Level", "Codes used", "Share", "Perplexity", "Gini", "Largest code"]
        blocks += ["### Codebook use", table(heads, used)]
        absent = {"text", "image"} - {v.modality for v in report.codebooks}
        blocks += [f"No {modality} codes in this run." for modality in sorted(absent)]
    blocks += _prefixes(report)
    if collided:
        heads = ["Modality", "Rate before", "Rate after", "Items moved", "Groups by size"]
        heads += ["Moved at level", "Distance"]
        blocks += ["### Collisions", table(heads, collided), COLLISION_KEY]
    return ["## Semantic IDs", *blocks] if blocks else []


def _prefixes(report: Report) -> list[str]:
    blocks: list[str] = []
    for measured in report.tokenizers:
        rows = tokenizer_section.prefix_rows(measured)
        if rows:
            blocks.append(
                table([f"{measured.modality.capitalize()} codes", *tokenizer_section.HEADS], rows)
            )
    if report.agreement:
        rows = tokenizer_section.agreement_rows(report.agreement)
        blocks.append(table(["Text and image", *tokenizer_section.AGREEMENT_HEADS], rows))
    if blocks:
        told = [f"- {name}: {meaning}" for name, meaning in tokenizer_section.key(report).items()]
        blocks = ["### What the codes say", tokenizer_section.LEAD, *blocks, "\n".join(told)]
    return blocks


def _training(report: Report) -> list[str]:
    panels = [*report.quantizer_panels, *report.generator_panels, *report.fusion_panels]
    rows = [row for panel in panels for row in _panel(panel)]
    heads = ["Curve", "Points", "First", "Lowest", "Highest", "Last", "Kept at"]
    return ["## Training", table(heads, rows)] if rows else []


def _panel(panel: Panel) -> list[list[str]]:
    rows: list[list[str]] = []
    for series in panel.series:
        ys = [y for y in series.y if y is not None and numbers.usable(y)]
        kept = f"{panel.mark.x:g}" if panel.mark and numbers.usable(panel.mark.x) else numbers.DASH
        figures = (ys[0], min(ys), max(ys), ys[-1]) if ys else (None,) * 4
        name = f"{panel.title}, {series.name}" if series.name else panel.title
        rows.append([escape(name), f"{len(ys):,}", *map(numbers.metric, figures), kept])
    return rows


def _examples(examples: Sequence[Example]) -> list[str]:
    blocks: list[str] = ["## Examples"] if examples else []
    for example in examples[:MAX_EXAMPLES]:
        rows = [
            [
                escape(r.item.title, 200) or "untitled",
                str(rank),
                {"both": "text and image"}.get(r.proposed_by, r.proposed_by),
                "hit" if r.hit else "",
            ]
            for rank, r in enumerate(example.recommended[:20], 1)
        ]
        had = "; ".join(escape(item.title, 200) for item in example.history[-20:])
        chose = f"Chose next: {escape(example.target.title, 200)}" if example.target else ""
        blocks += [f"### User {escape(example.user_id, 60)}", f"Had: {had}" if had else ""]
        blocks += [table(["Offered", "Rank", "Proposed by", "Outcome"], rows), chose]
    return blocks


def _run(report: Report) -> list[str]:
    seconds = [[escape(k), numbers.duration(v)] for k, v in report.stage_seconds.items()]
    inputs = [
        [escape(a.name), numbers.count(a.rows), escape(a.digest)]
        for a in report.artifacts[:MAX_ROWS]
    ]
    values = [[escape(k), escape(v)] for k, v in sorted(report.parameters.items())[:MAX_ROWS]]
    blocks: list[str] = []
    if seconds:
        blocks += ["## Time per stage", table(["Stage", "Time"], seconds)]
    if inputs:
        blocks += ["## Inputs", table(["Artifact", "Rows", "Digest"], inputs)]
    if values:
        blocks += ["## Parameters", table(["Name", "Value"], values)]
    return blocks
