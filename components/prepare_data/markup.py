"""Removes HTML from texts: shops keep titles as web pages show them."""

import html
import re
from typing import Final

import numpy as np
import pyarrow as pa

from components.prepare_data.findings import mask, pc

# Other words in angle brackets, such as List<String> or Vitamin <D3>, are text.
_NAMES: Final = (
    "a|abbr|address|article|aside|audio|b|base|bdi|bdo|big|blockquote|body|br|button|canvas|"
    "caption|center|cite|code|col|colgroup|dd|del|details|dfn|div|dl|dt|em|embed|figcaption|figure|"
    "font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|main|mark|"
    "meta|nav|noscript|object|ol|option|p|param|picture|pre|q|s|samp|script|section|select|small|"
    "source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|"
    "time|title|tr|tt|u|ul|var|video|wbr"
)
_ATTRIBUTE: Final = r"""\s+[A-Za-z_:@][\w:.@-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]+)"""
_TAG_PATTERN: Final = rf"</?(?:{_NAMES})(?:{_ATTRIBUTE})*\s*/?>"
_ENTITY_PATTERN: Final = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
MARKUP: Final = rf"(?i){_ENTITY_PATTERN}|{_TAG_PATTERN}|<!--"
_ENTITY: Final = re.compile(_ENTITY_PATTERN)
_TAG: Final = re.compile(_TAG_PATTERN, re.IGNORECASE)
_ENDS_LINE: Final = re.compile(r"</?(?:p|div|li|ul|ol|tr|td|h[1-6]|br)\b", re.IGNORECASE)
_SPACES: Final = re.compile(r"[ \t\r\f\v]+")
_HIDDEN: Final = (("<script", "</script>"), ("<style", "</style>"), ("<!--", "-->"))


def strip_markup(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return a text column without HTML, and which cells changed, bool [N].

    Tags, comments, scripts and styles are removed; a tag that ends a line becomes a space. Entities
    are decoded once, after the tags are gone, so `&lt;b&gt;` becomes the text `<b>`.
    """
    marked = mask(pc.match_substring_regex(column, MARKUP))
    if not marked.any():
        return column, marked
    cells = column.filter(pa.array(marked)).to_pylist()
    cleaned = pa.array([clean_text(cell) for cell in cells], column.type)
    result = pc.replace_with_mask(column, pa.array(marked), cleaned)
    return result, mask(pc.not_equal(result, column))


def clean_text(text: str) -> str:
    """Return a text without HTML."""
    for start, end in _HIDDEN:
        text = _remove_between(text, start, end)
    text = _TAG.sub(lambda tag: " " if _ENDS_LINE.match(tag[0]) else "", text)
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return _SPACES.sub(" ", text).strip()


def _remove_between(text: str, start: str, end: str) -> str:
    """Return the text without its parts from `start` to `end`; a part without an end stays."""
    lower, kept, place = text.lower(), list[str](), 0
    if len(lower) != len(text):  # some letters have no lower case of one character
        lower = text
    while (begin := lower.find(start, place)) >= 0:
        stop = lower.find(end, begin)
        if stop < 0:
            break
        kept += [text[place:begin], " "]
        place = stop + len(end)
    return "".join([*kept, text[place:]])
