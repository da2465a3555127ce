"""Building blocks of every chart: the picture, its texts and its colours.

Colours are CSS classes, so the same drawing works in light mode, dark mode and print.
"""

from typing import Any

from macrec.report.contents import Role
from macrec.report.markup import Raw, clean, el

LETTER = 6.1
"""Mean width of a letter at 11 px, used to reserve room for labels."""
BOLD_LETTER = 6.8
"""Mean width of a bold letter."""


def picture(width: float, height: float, title: str, told: str, *children: Any) -> Raw:
    """Return a drawing with its title and a description for screen readers."""
    heading, description = el("title", clean(title, 120)), el("desc", clean(told, 1200))
    return el(
        "svg", heading, description, *children,
        viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=clean(title, 120),
        style=f"max-width:{width * 1.15:.0f}px",
    )  # fmt: skip


def empty(title: str, message: str, width: float, height: float) -> Raw:
    """Return a placeholder with a sentence, for a chart without data."""
    words = text(width / 2, height / 2 + 4, message, "axis-name", "middle")
    return picture(width, height, title, message, words)


def text(x: float, y: float, words: str, kind: str, anchor: str | None = None) -> Raw:
    """Return a text at a position; `kind` is its CSS class."""
    return el("text", clean(words, 60), x=at(x), y=at(y), class_=kind, text_anchor=anchor)


def at(value: float) -> str:
    """Format a coordinate."""
    return f"{value:.1f}"


def colour(role: Role, index: int = 0) -> str:
    """Return the CSS class of a role; for the role "other", `index` selects one of four colours."""
    return f"s-{role}" if role != "other" else f"s-other-{index % 4}"
