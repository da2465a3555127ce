"""Parts of the items: every row in one part, parts of about equal size."""

import pytest

from macrec.compute.sharding import check_shard, shard_range
from macrec.core.errors import UserError


@pytest.mark.parametrize("count", [0, 1, 7, 1_000])
@pytest.mark.parametrize("total", [1, 3, 8])
def test_every_row_is_in_one_part(count, total):
    parts = [shard_range(f"{k}/{total}", count) for k in range(1, total + 1)]
    assert [row for part in parts for row in part] == [*range(count)]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert shard_range("", count) == range(count)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1/0", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part_is_refused(shard):
    check_shard("")
    check_shard("2/2")
    with pytest.raises(UserError, match="write K/N"):
        check_shard(shard)
