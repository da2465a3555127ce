"""Render the report with the Jinja templates in templates/: one HTML page, one Markdown summary.

Both templates escape every text; only markup from the templates themselves and from the charts is
left unchanged.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from macrec.report import charts, derived, explanations, numbers
from macrec.report.contents import Example, Item, Panel, Report, score_of
from macrec.report.escaping import clean, data_image, markdown, printable
from macrec.report.headline import best_system, headline
from macrec.report.line_chart import line_chart

TEMPLATES: Final = Path(__file__).parent / "templates"
MAX_BYTES: Final = 2_000_000
THUMBNAIL_BYTES: Final = 1_400_000
"""Size limit of all pictures. The rest of a page, at the limits of `_limit`, fits in what
remains."""
MAX_HISTORY: Final = 9


def render_report(report: Report) -> str:
    """Return one self-contained HTML page without scripts; as UTF-8 it is below MAX_BYTES.

    Pictures that are not embedded bitmaps are omitted. Pictures that exceed the size limit are
    omitted too, and the page shows how many.
    """
    report = _limit(report)
    examples, left_out = within_budget(report.examples, THUMBNAIL_BYTES)
    template = _environment("html").get_template("report.html.jinja")
    bare, all_left_out = within_budget(report.examples, 0)
    for shown, missing in ((examples, left_out), (bare, all_left_out), ((), 0)):
        page = template.render(
            report=replace(report, examples=shown),
            has_pictures=any(item.thumbnail for example in shown for item in example.items),
            pictures_left_out=missing,
        )
        if len(page.encode()) < MAX_BYTES:
            return page
    raise AssertionError("without examples the page is still too large: the limits do not hold")


def render_summary(report: Report) -> str:
    """Return the figures of the page as Markdown, for a terminal, a pull request or KFP's UI."""
    text = _environment("markdown").get_template("summary.md.jinja").render(report=_limit(report))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def within_budget(examples: Sequence[Example], budget: int) -> tuple[tuple[Example, ...], int]:
    """Return the examples with the first thumbnails that fit, and the number of those that do not.

    Args:
        examples: the example users; their histories are cut to MAX_HISTORY items.
        budget: number of bytes of all thumbnails.
    """
    left_out = 0

    def fit(item: Item) -> Item:
        nonlocal budget, left_out
        picture = data_image(item.thumbnail)
        if picture is not None and len(picture) > budget:
            left_out += 1
            picture = None
        budget -= len(picture or "")
        return replace(item, thumbnail=picture)

    fitted = tuple(
        replace(
            example,
            history=tuple(map(fit, example.history[-MAX_HISTORY:])),
            recommended=tuple(replace(r, item=fit(r.item)) for r in example.recommended),
            target=fit(example.target) if example.target else None,
        )
        for example in examples
    )
    return fitted, left_out


def _limit(report: Report) -> Report:
    """Return the report with all sequences cut to lengths that keep the page small."""

    def panels(found: Sequence[Panel]) -> tuple[Panel, ...]:
        return tuple(replace(panel, series=panel.series[:6]) for panel in found[:16])

    return replace(
        report,
        notes=report.notes[:20],
        facts=report.facts[:60],
        systems=report.systems[:40],
        groups=report.groups[:60],
        quantizer_panels=panels(report.quantizer_panels),
        generator_panels=panels(report.generator_panels),
        fusion_panels=panels(report.fusion_panels),
        codebooks=tuple(c for c in report.codebooks if c.level < 16),
        tokenizers=tuple(replace(t, prefixes=t.prefixes[:16]) for t in report.tokenizers),
        agreement=report.agreement[:16],
        examples=tuple(
            replace(e, history=e.history[-20:], recommended=e.recommended[:20])
            for e in report.examples[:12]
        ),
        artifacts=report.artifacts[:200],
        stage_seconds=dict(list(report.stage_seconds.items())[:40]),
    )


@cache
def _environment(kind: str) -> Environment:
    """Return the environment of "html" or "markdown"."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=printable if kind == "html" else markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = (
        *(numbers.metric, numbers.count, numbers.decimal, numbers.percent, numbers.duration),
        *(numbers.fact, derived.lift, clean),
    )
    environment.filters |= {function.__name__: function for function in formats}
    modules = {"charts": charts, "derived": derived, "explanations": explanations}
    functions = (headline, best_system, score_of, line_chart)
    environment.globals |= modules | {function.__name__: function for function in functions}
    environment.tests["usable"] = numbers.usable
    return environment
