"""Build HTML with functions that escape all text except `Raw` markup."""

import html
import re
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"meta", "img", "br", "hr", "col"})
FORBIDDEN_TAGS = frozenset({"script", "iframe", "object", "embed", "base", "form", "link", "a"})
ATTRIBUTE = re.compile(r"(?!on)[a-zA-Z][a-zA-Z0-9-]*")
# C0 and C1 controls, lone surrogates, and bidirectional overrides, which can reorder a line's text.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


class Raw(str):
    """Markup that is already safe; only this module and constants of this package create it."""

    __slots__ = ()


def clean(text: str, limit: int = 300) -> str:
    """Return external text on one line, without control characters, cut to `limit` characters."""
    line = " ".join(UNPRINTABLE.sub("", text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def data_image(uri: str | None) -> str | None:
    """Return the URI if it is an embedded bitmap, else None; SVG and external URIs are rejected."""
    return uri if uri and DATA_IMAGE.fullmatch(uri) else None


def join(children: Iterable[Any]) -> Raw:
    """Concatenate children: escape text, keep Raw unchanged, flatten iterables and skip None."""
    parts: list[str] = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Raw):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(UNPRINTABLE.sub("", child), quote=True))
        elif isinstance(child, Iterable):
            parts.append(join(child))  # pyright: ignore[reportUnknownArgumentType]
        else:
            parts.append(html.escape(str(child)))
    return Raw("".join(parts))


def el(tag: str, *children: Any, **attributes: Any) -> Raw:
    """Build an element: `el("td", title, class_="name")` is `<td class="name">escaped title</td>`.

    In attribute names, a trailing underscore is dropped and other underscores become hyphens. A
    value of None omits the attribute. A value of True writes it without a value.
    """
    assert tag not in FORBIDDEN_TAGS, tag
    written: list[str] = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        assert ATTRIBUTE.fullmatch(name) and name not in ("href", "srcdoc"), name
        assert name != "src" or data_image(value), "only embedded bitmaps"
        if value is None or value is False:
            continue
        text = UNPRINTABLE.sub("", str(value))
        written.append(f" {name}" if value is True else f' {name}="{html.escape(text)}"')
    opening = f"<{tag}{''.join(written)}>"
    if tag in VOID:
        assert not children, f"<{tag}> holds nothing"
        return Raw(opening)
    return Raw(f"{opening}{join(children)}</{tag}>")
