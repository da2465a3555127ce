"""Make external text safe: remove control characters, escape Markdown, check embedded images.

HTML is escaped by the autoescape of Jinja.
"""

import re
from typing import Final

from markupsafe import Markup

# C0 and C1 controls, lone surrogates, and bidirectional overrides, which can reorder a line's text.
CONTROL: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
BREAKS: Final = re.compile(r"[^\S\N{NO-BREAK SPACE}]+")
DATA_IMAGE: Final = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
MARKDOWN: Final = re.compile(r"([\\`*_\[\]()#~|!])")
# At the start of a line, these begin a list or underline a heading.
BLOCK_START: Final = re.compile(r"^([-+=])(?=[-+=\s]|$)|^(\d)(?=\d*[.)](?:\s|$))")


def clean(text: str, limit: int = 300) -> str:
    """Return external text on one line, without control characters, cut to `limit` characters."""
    line = " ".join(CONTROL.sub("", text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def printable(value: object) -> str:
    """Return a value as one line of text without control characters. Markup stays unchanged."""
    if isinstance(value, Markup):
        return value
    return BREAKS.sub(" ", CONTROL.sub("", str(value)))


def markdown(value: object) -> Markup:
    """Return a value as one line with all Markdown and HTML syntax escaped, unless it is Markup."""
    if isinstance(value, Markup):
        return value
    text = printable(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = MARKDOWN.sub(r"\\\1", text).replace("://", r"\://").replace("www.", r"www\.")
    return Markup(BLOCK_START.sub(lambda match: f"&#{ord(match[0])};", text))


def data_image(uri: str | None) -> Markup | None:
    """Return the URI if it is an embedded bitmap, else None; SVG and external URIs are rejected."""
    return Markup(uri) if uri and DATA_IMAGE.fullmatch(uri) else None
