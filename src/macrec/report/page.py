"""Render the report as one self-contained HTML page: no scripts, no requests, under 2 MB."""

from dataclasses import replace

from macrec.report import sections
from macrec.report.contents import Report
from macrec.report.example_section import users, within_budget
from macrec.report.headline import headline
from macrec.report.markup import Raw, clean, el
from macrec.report.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MAX_BYTES = 2_000_000


def render_html(report: Report) -> str:
    """Render the page; encoded as UTF-8 it is smaller than MAX_BYTES.

    External text is escaped. Pictures that are not embedded bitmaps are omitted. Pictures that
    exceed the size limit are omitted too, and the page shows how many.
    """
    examples, left_out = within_budget(report.examples)
    bare, more = within_budget(examples, budget=0)
    for shown, missing in ((examples, left_out), (bare, left_out + more), ((), 0)):
        page = _page(replace(report, examples=shown), missing)
        if len(page.encode()) < MAX_BYTES:
            return page
    raise AssertionError("without examples the page is still too large: the caps do not hold")


def _page(report: Report, pictures_left_out: int) -> str:
    title = clean(report.title) or "Run report"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("style", CSS),
    )
    heading = el(
        "header",
        el("h1", title),
        el("p", clean(report.subtitle), class_="subtitle") if report.subtitle else None,
    )
    notes = [el("li", clean(note, 600)) for note in report.notes[:20]]
    body = el(
        "main",
        heading,
        sections.tiles(headline(report)),
        el("ul", notes, class_="notes") if notes else None,
        sections.results(report),
        sections.data(report),
        sections.codes(report),
        sections.training(report),
        users(report.examples, pictures_left_out),
        sections.run(report),
    )
    document = el("html", head, el("body", body), lang="en")
    return Raw(f"<!doctype html>\n{document}\n")
