"""The SVG elements of the charts. Every text is escaped.

Colours are CSS classes, so the same drawing works in light mode, dark mode and print. Coordinates
are in user units of the drawing.
"""

from markupsafe import Markup

from macrec.report.contents import Role
from macrec.report.escaping import clean

LETTER = 6.1
"""Mean width of a letter at 11 px, used to reserve room for labels."""
BOLD_LETTER = 6.8
"""Mean width of a bold letter."""
NOTHING = Markup("")


def drawing(width: float, height: float, title: str, description: str, *shapes: Markup) -> Markup:
    """Return an `svg` element with a title and a description for screen readers."""
    return Markup(
        '<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" style="max-width:{:.0f}px">'
        "<title>{}</title><desc>{}</desc>{}</svg>"
    ).format(
        width, height, clean(title, 120), width * 1.15, clean(title, 120), clean(description, 1200),
        NOTHING.join(shapes),
    )  # fmt: skip


def empty(title: str, message: str, width: float, height: float) -> Markup:
    """Return a placeholder with a message, for a chart without data."""
    words = text(width / 2, height / 2 + 4, message, "axis-name", "middle")
    return drawing(width, height, title, message, words)


def text(x: float, y: float, words: str, kind: str, anchor: str = "") -> Markup:
    """Return a text of up to 60 characters; `kind` is its CSS class."""
    side = Markup(' text-anchor="{}"').format(anchor) if anchor else ""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}"{}>{}</text>').format(
        x, y, kind, side, clean(words, 60)
    )


def horizontal(x1: float, x2: float, y: float, kind: str) -> Markup:
    """Return a horizontal line."""
    return _line(x1, x2, y, y, kind)


def vertical(x: float, y1: float, y2: float, kind: str) -> Markup:
    """Return a vertical line."""
    return _line(x, x, y1, y2, kind)


def circle(x: float, y: float, radius: float, kind: str) -> Markup:
    """Return a circle."""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" class="{}"></circle>').format(
        x, y, radius, kind
    )


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """Return a rectangle."""
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"></rect>'
    ).format(x, y, width, height, kind)


def path(commands: str, kind: str) -> Markup:
    """Return a path; `commands` is its `d` attribute."""
    return Markup('<path d="{}" class="{}"></path>').format(commands, kind)


def colour(role: Role, index: int = 0) -> str:
    """Return the CSS class of a role; for the role "other", `index` selects one of four colours."""
    return f"s-{role}" if role != "other" else f"s-other-{index % 4}"


def _line(x1: float, x2: float, y1: float, y2: float, kind: str) -> Markup:
    return Markup(
        '<line x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}" class="{}"></line>'
    ).format(x1, x2, y1, y2, kind)
