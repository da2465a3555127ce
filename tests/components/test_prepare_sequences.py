"""The parts of the stage prepare_data: times, repeats, k-core, order, many ids."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.prepare_data.interactions import (
    Interactions,
    batches,
    in_time_order,
    k_core,
    starts_of_users,
    users_with_tie_at_split,
    without_duplicates,
)
from components.prepare_data.timestamps import to_microseconds


def test_repeats_apart_within_one_moment_are_found():
    log = Interactions(np.zeros(5, np.int32), np.array([4, 7, 4, 7, 4], np.int32), np.zeros(5, int))
    assert without_duplicates(log).item.tolist() == [4, 7]


def test_k_core_goes_on_to_the_fixpoint():
    # Item 3 has one user; without it user 2 has two events, and goes; then item 2 has two, and
    # goes; then nothing changes.
    pairs = [(0, 0), (0, 1), (0, 4), (0, 2), (1, 0), (1, 1), (1, 4), (1, 2), (3, 0), (3, 1), (3, 4)]
    pairs += [(2, 3), (2, 2), (2, 1)]
    user, items = np.array(pairs, np.int32).T
    core, stages = k_core(Interactions(user, items, None), users=4, items=5, minimum=3)
    assert [tuple(s) for s in stages] == [(4, 5, 14), (4, 4, 13), (3, 4, 11), (3, 3, 9)]
    assert sorted(zip(core.user.tolist(), core.item.tolist(), strict=True)) == [
        (u, i) for u in (0, 1, 3) for i in (0, 1, 4)
    ]


TIMES = {
    "seconds": pa.array([1_500_000_000, 1_500_000_001]),
    "milliseconds": pa.array([1_500_000_000_000, 1_500_000_001_000]),
    "microseconds": pa.array([1_500_000_000_000_000, 1_500_000_001_000_000]),
    "nanoseconds": pa.array([1_500_000_000 * 10**9, 1_500_000_001 * 10**9]),
    "small integers": pa.array([1_500_000_000, 1_500_000_001], pa.int32()),
    "floats": pa.array([1.5e9, 1.5e9 + 1]),
    "text of integers": pa.array(["1500000000", " 1500000001"]),
    "text of floats": pa.array(["1.5e9", "1500000001.0"]),
    "ISO": pa.array(["2017-07-14 02:40:00", "2017-07-14T02:40:01"]),
    "ISO with zones": pa.array(["2017-07-14T02:40:00Z", "2017-07-14T04:40:01+02:00"]),
    "ISO, mixed zones": pa.array(["2017-07-14T02:40:00", "2017-07-14T04:40:01.000+02:00"]),
    "a time type": pa.array([1_500_000_000, 1_500_000_001], pa.timestamp("s")),
    "a time type with a zone": pa.array([1_500_000_000_000, 1_500_000_001_000]).cast(
        pa.timestamp("ms", "Europe/Berlin")
    ),
}


@pytest.mark.case(30)
@pytest.mark.parametrize("case", TIMES)
def test_all_kinds_of_time_mean_the_same(case):
    times = to_microseconds(TIMES[case])
    assert times.micros.tolist() == [1_500_000_000_000_000, 1_500_000_001_000_000]
    assert not times.bad.any() and not times.null.any() and len(times.units) == 1


@pytest.mark.case(30)
def test_dates_and_nulls():
    assert to_microseconds(pa.array([17_361], pa.date32())).micros.tolist() == [
        1_499_990_400 * 10**6
    ]
    times = to_microseconds(pa.array(["", None, "NaN", "1e999", "-5", "5"]))
    assert times.null.tolist() == [True, True, False, False, False, False]
    assert times.bad.tolist() == [False, False, True, True, True, False]


@pytest.mark.case(30)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=60
    )
)
def test_no_event_stands_before_an_earlier_one(rows):
    user, items, times = np.array(rows, np.int64).T
    log = Interactions(user.astype(np.int32), items.astype(np.int32), times)
    core, _ = k_core(without_duplicates(in_time_order(log)), users=4, items=6, minimum=0)
    names = pa.array([f"u{k}" for k in range(4)], pa.large_string())
    written = [
        row
        for batch in batches(core, names, np.arange(6, dtype=np.int32))
        for row in batch.to_pylist()
    ]
    milliseconds = {}
    for u, i, t in rows:  # a plain model: a stable sort of the distinct rows
        milliseconds.setdefault(f"u{u}", {}).setdefault((t, i))
    expected = {
        name: [i for _, i in sorted(events, key=lambda event: event[0])]
        for name, events in milliseconds.items()
        if len(events) >= 3
    }
    assert {row["user_id"]: row["item_index"] for row in written} == expected
    by_user = np.split(core.micros, starts_of_users(core)[1:-1])
    assert all((np.diff(times) >= 0).all() for times in by_user)
    tied = sum(len(t) > 0 and (t[-1] == t[-2] or t[-2] == t[-3]) for t in by_user)
    assert users_with_tie_at_split(core) == tied


def test_many_distinct_ids_in_many_rounds():
    from components.prepare_data.log import IdCodes

    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 300, 5_000)
    codes = IdCodes(pa.array(["7", "x"], pa.large_string()), least=64)
    for part in np.array_split(drawn, 50):
        codes.add(pa.array([str(k) for k in part], pa.large_string()))
    codes.add(pa.array([None, "x"], pa.large_string()))
    found = codes.codes()
    assert found[-2:].tolist() == [-1, 1] and found.dtype == np.int32
    assert codes.ids.take(pa.array(found[:-2])).to_pylist() == [str(k) for k in drawn]
    assert len(codes.ids) == len(set(drawn.tolist()) | {7}) + 1


@pytest.mark.parametrize("sizes", [[], [0, 3], [4], [9, 0, 1], [1] * 13])
def test_regrouping_keeps_the_rows(sizes):
    from components.prepare_data.catalogue import regroup

    bounds = np.cumsum([0, *sizes])
    parts = [pa.record_batch({"x": list(range(*b))}) for b in pairwise(bounds)]
    parts = [part.cast(pa.schema({"x": pa.int64()})) for part in parts]
    tables = [table.column("x").to_pylist() for table in regroup(parts, 4)]
    assert [x for table in tables for x in table] == list(range(sum(sizes)))
    assert all(len(table) == 4 for table in tables[:-1])
