"""Removes HTML from texts: shops keep titles as web pages show them."""

import html
import re
from typing import Final

import numpy as np
import pyarrow as pa

from components.prepare_data.findings import mask, pc

MARKUP: Final = (
    r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});|<(/?[A-Za-z][^<>]*|!--)"
)
_HIDDEN: Final = re.compile(r"(?is)<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->")
_BREAK: Final = re.compile(r"(?i)<(/?(p|div|li|ul|ol|tr|td|h[1-6])|br)\b[^<>]*>")
_TAG: Final = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACES: Final = re.compile(r"[ \t\r\f\v]+")


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
    text = _HIDDEN.sub(" ", text)
    text = _TAG.sub("", _BREAK.sub(" ", text))
    return _SPACES.sub(" ", html.unescape(text)).strip()
