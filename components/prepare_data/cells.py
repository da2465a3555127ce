"""Judges and converts the cells of text columns: lists written as text, nulls written as text."""

import ast
import json
import re
import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from components.prepare_data.findings import mask, pc

NULLS_AS_TEXT: Final = (
    *("nan", "NaN", "NAN", "None", "NULL", "Null", "null", "(null)", "\\N", "<NA>", "NaT"),
    *("N/A", "#N/A", "undefined"),
)
"""What programs write for a missing value into a text file."""
LONG: Final = 100_000
"""Characters above which a cell is suspicious."""
LONGEST_LIST: Final = 1_000_000
"""Characters up to which a cell is parsed as a list."""
GARBLED: Final = "[\u0080-\u009f]|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\ufffd"
"""UTF-8 that was read as cp1252 or Latin-1, control characters of Latin-1, or lost characters."""
LIST_PATTERN: Final = r"(?s)^\s*\[.*\]\s*$"
QUOTED_LIST_PATTERN: Final = r"""(?s)^\s*\[\s*u?['"].*\]\s*$"""
NO_PATH_PATTERN: Final = r"(?s)^\s*(\[.*\]|\(.*\)|\{.*\}|array\(.*\))\s*$"
"""What is no path of a picture, but several in some notation."""
ADJACENT_TEXTS: Final = re.compile(r"""['"]\s+u?['"]""")
"""Texts without a comma between them, which Python joins and NumPy prints."""


class ParsedLists(NamedTuple):
    """A column in which lists are replaced, and masks of its rows, bool [N]."""

    column: pa.Array
    is_list: np.ndarray
    """The cell contained a list of texts."""
    is_longer: np.ndarray
    """The list had several texts, of which the first was used."""
    is_unparsed: np.ndarray
    """The cell looks like a list, but cannot be parsed."""


def is_null_text(column: pa.Array) -> np.ndarray:
    """Return which cells contain a word such as `NULL` or `nan` and nothing else, bool [N]."""
    values = pa.array(NULLS_AS_TEXT, column.type)
    return mask(pc.is_in(pc.utf8_trim_whitespace(column), value_set=values))


def is_garbled(column: pa.Array) -> np.ndarray:
    """Return which cells look as if they were decoded with a wrong encoding, bool [N]."""
    return mask(pc.match_substring_regex(column, GARBLED))


def is_long(column: pa.Array) -> np.ndarray:
    """Return which cells have more than LONG characters, bool [N]."""
    return mask(pc.greater(pc.utf8_length(column), LONG))


def parse_lists(column: pa.Array, first_only: bool) -> ParsedLists:
    """Replace cells that contain a list of texts, such as `['a', 'b']` or `[]`.

    Args:
        column: a text column.
        first_only: whether the first text replaces the list; otherwise all are joined by ", ".
    """
    pattern = NO_PATH_PATTERN if first_only else LIST_PATTERN
    rows = np.flatnonzero(mask(pc.match_substring_regex(column, pattern)))
    is_list, is_longer, is_unparsed = (np.zeros(len(column), bool) for _ in range(3))
    if not len(rows):
        return ParsedLists(column, is_list, is_longer, is_unparsed)
    cells = column.take(pa.array(rows))
    quoted = mask(pc.match_substring_regex(cells, QUOTED_LIST_PATTERN)) | first_only
    texts: list[str | None] = []
    for row, cell, looks_quoted in zip(rows, cells.to_pylist(), quoted, strict=True):
        found = _parse_list(cell)
        if found is None:
            is_unparsed[row] = looks_quoted
            texts.append(cell)
            continue
        is_list[row], is_longer[row] = True, first_only and len(found) > 1
        texts.append(join_texts(found, first_only))
    return ParsedLists(
        pc.replace_with_mask(
            column, pa.array(_mask_of(rows, len(column))), pa.array(texts, column.type)
        ),
        is_list,
        is_longer,
        is_unparsed,
    )


def join_texts(texts: list[str], first_only: bool) -> str | None:
    """Return the first text or all of them joined; None for an empty list."""
    if not texts:
        return None
    return texts[0] if first_only else ", ".join(texts)


def flatten_lists(column: pa.Array, first_only: bool) -> tuple[pa.Array, np.ndarray]:
    """Return a text column made of a list column, and which rows had several texts, bool [N].

    Nulls inside a list are skipped. An empty list becomes null.
    """
    values = column.flatten().cast(pa.large_string())
    parents = pc.list_parent_indices(column)
    valid = values.is_valid()
    values, parent_K = values.filter(valid), np.asarray(parents.filter(valid), np.int64)
    count_N = np.bincount(parent_K, minlength=len(column))
    offsets = np.append(0, np.cumsum(count_N))
    if first_only:
        starts = pa.array(np.where(count_N > 0, offsets[:-1], 0), mask=count_N == 0)
        return values.take(starts), count_N > 1
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    joined = pc.binary_join(lists, pa.scalar(", ", values.type))
    return pc.if_else(pa.array(count_N > 0), joined, pa.scalar(None, joined.type)), count_N > 1


def _parse_list(cell: str) -> list[str] | None:
    """Return the texts of a JSON or Python list without its nulls; None for anything else."""
    if len(cell) > LONGEST_LIST:
        return None
    found: Any
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        if ADJACENT_TEXTS.search(cell):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                found = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    if not isinstance(found, list) or not all(v is None or isinstance(v, str) for v in found):
        return None
    texts = [value for value in found if value is not None]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which is no text
        return None
    return texts


def _mask_of(rows: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(count, bool)
    chosen[rows] = True
    return chosen
