"""The pieces every chart is made of: the picture, its texts, its colours.

Colours are CSS classes, so that one drawing serves light, dark and print.
"""

from typing import Any

from macrec.report.contents import Role
from macrec.report.markup import Raw, clean, el

LETTER = 6.1
"""Mean width of a letter of 11 px, for the room that labels need; bold ones are wider."""
BOLD_LETTER = 6.8


def picture(width: float, height: float, title: str, told: str, *children: Any) -> Raw:
    """A drawing with its title and a sentence of what it shows."""
    heading, description = el("title", clean(title, 120)), el("desc", clean(told, 1200))
    return el(
        "svg", heading, description, *children,
        viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=clean(title, 120),
        style=f"max-width:{width * 1.15:.0f}px",
    )  # fmt: skip


def empty(title: str, message: str, width: float, height: float) -> Raw:
    """The place of a chart that has nothing to show, with a sentence in it."""
    words = text(width / 2, height / 2 + 4, message, "axis-name", "middle")
    return picture(width, height, title, message, words)


def text(x: float, y: float, words: str, kind: str, anchor: str | None = None) -> Raw:
    """Words at a place; `kind` is their CSS class."""
    return el("text", clean(words, 60), x=at(x), y=at(y), class_=kind, text_anchor=anchor)


def at(value: float) -> str:
    """A coordinate as it is written."""
    return f"{value:.1f}"


def colour(role: Role, index: int = 0) -> str:
    """CSS class of a role; the k-th line without a role has a colour of its own."""
    return f"s-{role}" if role != "other" else f"s-other-{index % 4}"
