"""Shards of the items, for embedding stages that run as several tasks."""

import re

from macrec.core.errors import check


def check_shard(shard: str) -> None:
    """Check that a shard is empty or K/N with K from 1 to N.

    Raises:
        UserError: the shard has another form.
    """
    number, total = _numbers(shard) if shard else (1, 1)
    check(1 <= number <= total, f"shard={shard!r}: write K/N with K from 1 to N, such as 2/4.")


def shard_range(shard: str, count: int) -> range:
    """Return the rows of the K-th of N parts of about equal size; all rows if `shard` is empty."""
    number, total = _numbers(shard) if shard else (1, 1)
    return range((number - 1) * count // total, number * count // total)


def _numbers(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    return (int(match[1]), int(match[2])) if match else (0, 0)
