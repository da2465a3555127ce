"""The report's section of example users: history, recommendations with modality, next item."""

from collections.abc import Sequence
from dataclasses import replace

from macrec.report import numbers
from macrec.report.contents import Example, Item, Recommendation
from macrec.report.markup import Raw, clean, data_image, el
from macrec.report.sections import part

THUMBNAIL_BYTES = 1_400_000
"""Size limit of all pictures. The rest of a page, at its own limits, fits in what remains."""
MAX_EXAMPLES = 12
MAX_HISTORY = 9
MAX_RECOMMENDED = 20


def within_budget(
    examples: Sequence[Example], budget: int = THUMBNAIL_BYTES
) -> tuple[tuple[Example, ...], int]:
    """Return the first examples with the thumbnails that fit, and how many did not fit."""
    left_out = 0

    def fit(item: Item) -> Item:
        nonlocal budget, left_out
        picture = data_image(item.thumbnail)
        if picture is not None and len(picture) > budget:
            left_out += 1
            picture = None
        budget -= len(picture or "")
        return replace(item, thumbnail=picture)

    kept = tuple(
        replace(
            example,
            history=tuple(fit(item) for item in example.history[-MAX_HISTORY:]),
            recommended=tuple(
                replace(r, item=fit(r.item)) for r in example.recommended[:MAX_RECOMMENDED]
            ),
            target=fit(example.target) if example.target else None,
        )
        for example in examples[:MAX_EXAMPLES]
    )
    return kept, left_out


def users(examples: Sequence[Example], pictures_left_out: int) -> Raw | None:
    """Render the section from examples that `within_budget` returned."""
    if not examples:
        return None
    pictured = any(
        item.thumbnail
        for example in examples
        for item in (*example.history, *(r.item for r in example.recommended))
    )
    note = None if pictured else "No pictures to show."
    if pictures_left_out:
        note = f"{numbers.count(pictures_left_out)} pictures left out to keep the page small."
    lead = (
        f"The last {MAX_HISTORY} items of a history at most, then the recommendations, best "
        "first, each with the modality whose beam held it, or neighbours where no beam did."
    )
    shown = [_example(example, pictured) for example in examples]
    return part("Examples", lead, el("p", note, class_="quiet") if note else None, shown)


def _example(example: Example, pictured: bool) -> Raw:
    rank = next((k for k, r in enumerate(example.recommended, 1) if r.hit), None)
    outcome = f"hit at rank {rank}" if rank else f"no hit in {len(example.recommended)}"
    heading = el(
        "h3",
        "User ",
        el("bdi", clean(example.user_id, 60)),
        " ",
        el("span", outcome, class_="hit" if rank else None),
    )
    kind = "items" if pictured else "items plain"
    had = [el("li", _item(item, pictured)) for item in example.history]
    if example.target:
        by = el("span", el("b", "chosen"), class_="by")
        had.append(el("li", _item(example.target, pictured), by, class_="next"))
    ranked = [_recommendation(r, k, pictured) for k, r in enumerate(example.recommended, 1)]
    return el(
        "article",
        heading,
        [el("h4", "History"), el("ol", had, class_=kind)] if had else None,
        el("h4", "Recommended"),
        el("ol", ranked, class_=kind) if ranked else el("p", "Nothing.", class_="quiet"),
        class_="example",
    )


def _recommendation(shown: Recommendation, rank: int, pictured: bool) -> Raw:
    colour = {"text": "s-text", "image": "s-image"}.get(shown.proposed_by, "s-other")
    by = el(
        "span",
        f"{rank} ",
        el("b", shown.proposed_by, class_=colour),
        [" ", el("span", "\N{CHECK MARK} hit", class_="hit")] if shown.hit else None,
        class_="by",
    )
    return el("li", _item(shown.item, pictured), by, class_="is-hit" if shown.hit else None)


def _item(item: Item, pictured: bool) -> Raw:
    title = clean(item.title, 160) or "untitled"
    picture = el("img", src=item.thumbnail, alt="") if item.thumbnail else "no picture"
    thumb = el("div", picture, class_="thumb") if pictured else None
    return el("div", thumb, el("bdi", title, class_="name", title=title))
