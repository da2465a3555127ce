"""A part of the items, for embedding stages that several tasks share."""

import re

from macrec.core.errors import check


def check_shard(shard: str) -> None:
    """Refuses what is neither empty nor K/N with K from 1 to N.

    Raises:
        UserError: it is something else.
    """
    number, total = _numbers(shard) if shard else (1, 1)
    check(1 <= number <= total, f"shard={shard!r}: write K/N with K from 1 to N, such as 2/4.")


def shard_range(shard: str, count: int) -> range:
    """The rows of the K-th of N parts of about equal size; all rows if `shard` is empty."""
    number, total = _numbers(shard) if shard else (1, 1)
    return range((number - 1) * count // total, number * count // total)


def _numbers(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    return (int(match[1]), int(match[2])) if match else (0, 0)
