"""Hostile Parquet, read by the real stage under a limit of memory."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.prepare_data.readers import Reader
from macrec.core.artifact import Artifact
from tests.attacks.limited import MIB, Ended, run_stage

LIMIT = 2_500 * MIB
"""Address space of the stage: half of it are libraries that are mapped and hardly read."""


def catalogue(rows: int, **columns: pa.Array) -> pa.Table:
    return pa.table({"item_id": [f"i{k}" for k in range(rows)], **columns})


def prepared(folder: Path, table: pa.Table | None = None, limit: int = LIMIT) -> Ended:
    """The stage on a catalogue of the folder (or this table) and a plain log."""
    items = folder / "items.parquet"
    if table is not None:
        # Without Arrow's own schema the reader sees plain texts and not a dictionary.
        pq.write_table(table, items, compression="zstd", store_schema=False)
    events = [(f"u{u}", f"i{k}", 1_500_000_000 + k) for u in range(3) for k in range(4)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*events, strict=True), strict=True))
    pq.write_table(pa.table({n: list(c) for n, c in columns.items()}), folder / "log.parquet")
    return run_stage(
        "prepare_data",
        folder,
        *("--catalog", items, "--interactions", folder / "log.parquet"),
        *("--out", folder / "out", "--set=min_interactions=0"),
        limit=limit,
        seconds=600,
    )


LARGEST = 1_100 * MIB


def refused(ended: Ended, *parts: str) -> None:
    assert ended.code == 2 and "Traceback" not in ended.log, ended.log
    for part in parts:
        assert part in ended.log, ended.log
    assert ended.peak < LARGEST, f"{ended.peak / MIB:.0f} MiB"


@pytest.mark.case(34)
@pytest.mark.parametrize(
    ("length", "ci", "nightly"), [(21_000, 5_000, 100_000), (1_000_000, 250, 2_000)]
)
def test_a_few_kilobytes_that_hold_gigabytes_of_text_are_read_in_bounded_memory(
    tmp_path, sized, trials, length, ci, nightly
):
    """The long text stands in the file once and on many rows, behind as many short ones."""
    rows = sized(ci, nightly)
    indices = pa.array([0] * 9_000 + [1] * rows, pa.int32())
    titles = pa.DictionaryArray.from_arrays(indices, pa.array(["short", "x" * length]))
    ended = prepared(tmp_path, catalogue(9_000 + rows, title=titles))
    assert (tmp_path / "items.parquet").stat().st_size < 100_000 + 5 * rows
    assert ended.code == 0, ended.log
    assert ended.peak < LARGEST, f"{ended.peak / MIB:.0f} MiB"
    assert Artifact.open(tmp_path / "out" / "items").rows == 9_000 + rows
    trials("MB of text from a few kB of Parquet", rows * length // 1_000_000)


@pytest.mark.case(34)
def test_a_text_larger_than_the_memory_is_refused(tmp_path):
    table = catalogue(2, title=pa.array(["x" * (200 * MIB), "y"]))
    ended = prepared(tmp_path, table, limit=1_200 * MIB)
    refused(ended, "items.parquet: needs more memory than there is")


@pytest.mark.case(34)
def test_all_that_is_wrong_with_the_types_comes_in_one_message(tmp_path):
    items = pa.table(
        {
            "item_id": pa.array([1.5, 2.5]),
            "title": pa.array([{"a": 1}, {"a": 2}]),
            "description": pa.array([[1], [2]]),
            "image": pa.array([True, False]),
        }
    )
    ended = prepared(tmp_path, items)
    refused(
        ended,
        "column 'item_id' is double, which item_id_column cannot be",
        "column 'title' is struct<a: int64>, which title_column cannot be",
        "column 'description' is list<",
        "column 'image' is bool, which image_column cannot be",
    )


@pytest.mark.case(34)
@pytest.mark.parametrize("depth", [60, 100, 1_000])
def test_nesting_is_a_wrong_type_and_no_overflow(tmp_path, depth):
    column = pa.array(["x", "y"])
    for _ in range(depth):
        column = pa.StructArray.from_arrays([column], ["a"])
    ended = prepared(tmp_path, catalogue(2, title=column))
    refused(ended, "items.parquet")
    assert len(ended.log) < 3_000, ended.log


@pytest.mark.case(34)
def test_thousands_of_columns_cost_little(tmp_path):
    more = {f"c{k}": pa.array([k, k]) for k in range(5_000)}
    ended = prepared(tmp_path, pa.table({"itemid": ["a", "b"], "title": ["A", "B"], **more}))
    refused(ended, "no column 'item_id'", "The nearest is 'itemid'")
    assert len(ended.log) < 3_000 and ended.peak < 400 * MIB


@pytest.mark.case(34)
@pytest.mark.parametrize("promised", [500, 1_001, 7_000])
def test_a_forged_number_of_rows_is_refused_or_counts_for_nothing(tmp_path, promised, trials):
    """A count of the footer is a number of two bytes, which stands in it several times."""
    path = tmp_path / "items.parquet"
    pq.write_table(catalogue(1_000, title=pa.array(["x"] * 1_000)), path)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")

    def packed(count: int) -> bytes:  # zigzag, low seven bits first
        return bytes([2 * count & 127 | 128, 2 * count >> 7])

    parts = content[start:].split(packed(1_000))
    assert len(parts) > 4
    outcomes = list[int | str]()
    for place in range(1, len(parts)):
        footer = packed(1_000).join(parts[:place]) + packed(promised)
        path.write_bytes(content[:start] + footer + packed(1_000).join(parts[place:]))
        reader = Reader(path, 8_192)
        rows = sum(chunk.rows for chunk in reader.chunks({"item_id": "id", "title": "text"}))
        outcomes.append(reader.bad.first[0] if reader.bad.count else rows)
    assert f"1,000 rows, its footer says {promised:,}" in str(outcomes[0])
    assert all(isinstance(outcome, str) or outcome == 1_000 for outcome in outcomes), outcomes
    trials("forged counts", len(outcomes))
