"""Times that are possible but not plausible, by the validation of the stage prepare_data."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.prepare_data.calendar_numbers import read_dates, read_dates_again
from components.prepare_data.log import ROWS
from components.prepare_data.moments import parse_limit, to_micros
from components.prepare_data.spec import Settings
from components.prepare_data.timestamps import to_microseconds
from components.prepare_data.validation import ValidationReport, validate
from macrec.core.errors import UserError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ITEMS = ("a", "b", "c", "d")
GOOD = [1_500_000_000 + 7 * k for k in range(8)]


def micros(text: str) -> int:
    return to_micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def validate_times(folder: Path, times: Any, **settings: Any) -> ValidationReport:
    """Validate a log of users with four rows each and these times; a text is a CSV column."""
    pq.write_table(pa.table({"item_id": ITEMS, "title": ITEMS}), folder / "items.parquet")
    rows = len(times)
    users, names = [f"u{k // 4}" for k in range(rows)], [ITEMS[k % 4] for k in range(rows)]
    if isinstance(times, list) and isinstance(times[0], str):
        lines = [",".join(row) for row in zip(users, names, times, strict=True)]
        path = folder / "log.csv"
        path.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    else:
        path = folder / "log.parquet"
        pq.write_table(pa.table({"user_id": users, "item_id": names, "timestamp": times}), path)
    config = Settings(min_interactions=0, image_column="", **settings)
    return validate(config, folder / "items.parquet", path, now=NOW)


def find(texts: list[str], part: str) -> str:
    """Return the only text that contains the part."""
    (text,) = [text for text in texts if part in text]
    return text


YEAR_2096 = {
    "seconds": ([*GOOD[:-1], 3_976_214_400], "log.parquet row 8: '3976214400' = 2096-01-01"),
    "milliseconds": ([*(t * 1000 for t in GOOD[:-1]), 3_976_214_400_000], "log.parquet row 8: "),
    "ISO": ([*["2024-05-01"] * 7, "2096-01-01T00:00:00Z"], "log.csv line 9: '2096-01-01T00"),
    "a time type": (
        pa.array([*GOOD[:-1], 3_976_214_400], pa.timestamp("s")),
        "log.parquet row 8: '2096-01-01 00:00:00",
    ),
    "beyond datetime": (pa.array([*GOOD[:-1], 10**12], pa.timestamp("s")), "= 33658-09-27"),
    "YYYYMMDD": ([20170714] * 7 + [20960101], "log.parquet row 8: '20960101'"),
}


@pytest.mark.case(30)
@pytest.mark.parametrize("case", YEAR_2096)
def test_one_row_in_the_future_is_a_problem_with_its_place(tmp_path, case):
    times, place = YEAR_2096[case]
    problem = find(validate_times(tmp_path, times).problems, "2026-01-02T00:00:00 UTC")
    assert "1 of 8 times in 'timestamp' are after" in problem and "now plus a day" in problem
    assert place in problem and "prepare_data.latest_time" in problem


@pytest.mark.case(30)
def test_the_limit_is_a_day_after_now_or_the_setting(tmp_path):
    day = 86_400
    last = int(NOW.timestamp()) + day
    assert validate_times(tmp_path, [*GOOD[:-1], last]).problems == []
    assert validate_times(tmp_path, [*GOOD[:-1], last + 1]).problems
    later = {"latest_time": "2096-01-01"}
    end_of_day = micros("2096-01-01T23:59:59") // 10**6
    assert validate_times(tmp_path, [*GOOD[:-1], end_of_day], **later).problems == []
    (problem,) = validate_times(tmp_path, [*GOOD[:-1], end_of_day + 1], **later).problems
    assert "prepare_data.latest_time=2096-01-01" in problem and "now" not in problem
    before = validate_times(tmp_path, GOOD, latest_time="2017-07-14T02:40:30+00:00")
    assert "3 of 8 times" in before.problems[0] and "row 6" in before.problems[0]


def test_latest_time_is_checked_and_a_date_includes_its_day():
    for wrong in ("tomorrow", "2024-13-01", "1735689600"):
        with pytest.raises(UserError, match="latest_time"):
            Settings(latest_time=wrong)
    assert parse_limit("2024-12-31") == datetime(2024, 12, 31, 23, 59, 59, 999_999, UTC)
    assert parse_limit("2024-12-31T12:00+02:00") == datetime(2024, 12, 31, 10, tzinfo=UTC)
    Settings(latest_time="9999-12-31")


def test_the_clock_does_not_change_what_is_written(tmp_path):
    validate_times(tmp_path, GOOD)
    paths = tmp_path / "items.parquet", tmp_path / "log.parquet"
    config = Settings(min_interactions=0, image_column="")
    years = [datetime(year, 1, 1, tzinfo=UTC) for year in (2018, 2090)]
    first, second = (validate(config, *paths, now=now) for now in years)
    assert first.lines() == second.lines() and first.prepared and second.prepared
    for one, other in zip(first.prepared.log, second.prepared.log, strict=True):
        np.testing.assert_array_equal(one, other)


DATES = {
    "integers": pa.array([20170714, 20240229] * 4),
    "32-bit integers": pa.array([20170714, 20240229] * 4, pa.int32()),
    "floats": pa.array([20170714.0, 20240229.0] * 4),
    "text": ["20170714", "20240229"] * 4,
}


@pytest.mark.case(30)
@pytest.mark.parametrize("case", DATES)
def test_numbers_that_all_look_like_dates_are_dates(tmp_path, case):
    report = validate_times(tmp_path, DATES[case])
    warning = find(report.warnings, "YYYYMMDD")
    assert "8 of 8 numbers in 'timestamp'" in warning and "'20170714" in warning
    assert not report.problems and report.prepared
    found = np.unique(report.prepared.log.micros)
    assert found.tolist() == [micros("2017-07-14"), micros("2024-02-29")]
    assert not any("before 1990" in text for text in report.warnings)


@pytest.mark.parametrize(
    ("number", "time"),
    [
        (19900101, "1990-01-01"),
        (21001231, "2100-12-31"),
        (202402291830, "2024-02-29T18:30"),
        (20240229183059, "2024-02-29T18:30:59"),
        (20230229, None),
        (20240431, None),
        (20241301, None),
        (20240100, None),
        (19891231, None),
        (21010101, None),
        (202402292400, None),
        (20240229183060, None),
        (1_500_000_000, None),
    ],
)
def test_a_number_is_a_date_only_if_the_calendar_contains_it(number, time):
    expected = micros(time) if time else -1
    found = read_dates(np.array([number]))
    assert (-1 if found is None else found[0]) == expected
    times = to_microseconds(pa.array([number]))
    assert read_dates_again(times.micros)[0] == expected


@pytest.mark.case(30)
def test_dates_among_seconds_are_mixed_units(tmp_path):
    (problem,) = validate_times(tmp_path, [*GOOD[:-1], 20170714]).problems
    assert "7 in seconds, 1 in dates of the form YYYYMMDD" in problem
    assert "log.parquet row 8: '20170714'" in problem and "row 1" not in problem
    (problem,) = validate_times(tmp_path, [20170714] * 7 + [20170732]).problems
    assert "1 in seconds" in problem and "row 8: '20170732'" in problem
    (problem,) = validate_times(tmp_path, [20170714] * 7 + [20170714183000]).problems
    assert "YYYYMMDDHHMMSS" in problem


@pytest.mark.case(30)
def test_small_counters_are_not_dates_even_if_some_look_like_one(tmp_path):
    counters = list(range(20_240_090, 20_240_290))
    report = validate_times(tmp_path, counters)
    assert report.problems == [] and report.prepared
    assert report.prepared.log.micros.tolist() == [t * 10**6 for t in counters]
    assert "200 of 200 times in 'timestamp' are before 1990" in find(report.warnings, "before 1990")


@pytest.mark.case(30)
def test_what_the_numbers_are_does_not_depend_on_the_chunks(tmp_path):
    """The last chunk alone looks like a date, but the rows before it show a counter."""
    counters = np.append(np.arange(4 * (ROWS // 4)), [20170714] * 4)
    report = validate_times(tmp_path, counters)
    assert report.problems == [] and report.prepared
    assert report.prepared.log.micros.max() == 20170714 * 10**6


@pytest.mark.case(30)
def test_times_before_1990_are_counted_with_their_rows(tmp_path):
    report = validate_times(tmp_path, [*GOOD[:-1], 0])
    warning = find(report.warnings, "before 1990")
    assert "1 of 8 times in 'timestamp'" in warning
    assert "log.parquet row 8: '0' = 1970-01-01T00:00:00" in warning
    assert report.problems == []


RANDOM = np.random.default_rng(0).integers(1_600_000_000, 1_600_100_000, 400)


@pytest.mark.case(30)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_seconds_in_float32_are_counted_even_after_a_cast(tmp_path, kind):
    rounded = (1_600_000_000 + RANDOM % 1_000).astype(np.float32).astype(kind)
    report = validate_times(tmp_path, rounded)
    warning = find(report.warnings, "float32")
    shared = sum(user.count(time) > 1 for user in rounded.reshape(-1, 4).tolist() for time in user)
    assert f"{shared:,} of 400 interactions" in warning and "'timestamp'" in warning
    assert "int64 or float64" in warning and shared > 0


def test_a_float32_column_is_warned_of_even_if_it_is_short(tmp_path):
    report = validate_times(tmp_path, np.array(GOOD, np.float32))
    assert "8 of 8 interactions" in find(report.warnings, "float32")
    assert not any("float32" in w for w in validate_times(tmp_path, GOOD).warnings)


@pytest.mark.parametrize(
    "times",
    [
        RANDOM,
        RANDOM * 1000,
        RANDOM.astype(np.float64),
        RANDOM // 86_400 * 86_400,
        (RANDOM // 86_400 * 86_400).astype(np.float32),
        RANDOM // 60 * 60,
        np.arange(400, dtype=np.float32),
    ],
    ids=["seconds", "milliseconds", "float64", "days", "float32 days", "minutes", "counters"],
)
def test_exact_times_are_not_called_rounded(tmp_path, times):
    assert not any("float32" in text for text in validate_times(tmp_path, times).warnings)


@pytest.mark.case(30)
@pytest.mark.parametrize("odd", [False, True], ids=["whole columns", "value by value"])
def test_times_with_and_without_a_zone_are_counted(tmp_path, odd):
    naive, zoned = "2024-05-01T10:00:00", "2024-05-01T12:00:00+02:00"
    rows = [zoned, naive, zoned, zoned, zoned, zoned, "2024-05-01", naive]
    if odd:  # a week date, which only Python reads
        rows[1] = "2024-W18-3T10:00:00"
    report = validate_times(tmp_path, rows)
    warning = find(report.warnings, "zone")
    assert "3 times in 'timestamp' have no zone (first: log.csv line 3: " in warning
    assert "5 have one (first: log.csv line 2: " in warning and "UTC" in warning
    assert report.problems == [] and report.prepared
    first = report.prepared.log.micros[report.prepared.log.user == 0]
    assert set(first.tolist()) == {micros("2024-05-01T10:00:00")}


def test_a_time_with_a_zone_in_one_file_and_none_in_another_is_counted(tmp_path):
    (tmp_path / "log").mkdir()
    for name, zone in (("1", "UTC"), ("2", None)):
        times = pa.array(GOOD[:4]).cast(pa.timestamp("s", zone))
        table = pa.table({"user_id": [name] * 4, "item_id": ITEMS, "timestamp": times})
        pq.write_table(table, tmp_path / "log" / f"{name}.parquet")
    pq.write_table(pa.table({"item_id": ITEMS, "title": ITEMS}), tmp_path / "items.parquet")
    config = Settings(min_interactions=0, image_column="")
    report = validate(config, tmp_path / "items.parquet", tmp_path / "log", now=NOW)
    assert "4 times in 'timestamp' have no zone" in find(report.warnings, "zone")


@pytest.mark.parametrize("texts", [["2024-05-01T10:00Z"] * 4, ["2024-05-01 10:00"] * 4])
def test_times_of_one_kind_are_not_warned_of(tmp_path, texts):
    assert not any("zone" in text for text in validate_times(tmp_path, texts).warnings)


def test_both_ways_to_read_mixed_zones_give_the_same_times():
    texts = ["2024-05-01T10:00:00+02:00", "2024-05-01T10:00:00", None, "2024-05-01 10:00:00.25"]
    texts += ["2024-05-01T10:00Z", "2024-05-01", "1969-01-01", "1969-01-01T00:00:00Z"]
    fast = to_microseconds(pa.array(texts))
    slow = to_microseconds(pa.array([*texts, "2024-W18-3"]))
    for name in ("micros", "null", "bad", "zoned", "naive"):
        one, other = getattr(fast, name), getattr(slow, name)[:-1]
        valid = ~fast.null & ~fast.bad if name == "micros" else np.ones(len(texts), bool)
        assert one[valid].tolist() == other[valid].tolist(), name


def test_the_first_and_the_last_year_with_a_zone_are_read():
    texts = ["0001-01-01T00:00+05:00", "9999-12-31T23:00-05:00", "2024-W18-3"]
    times = to_microseconds(pa.array(texts))
    assert times.bad.tolist() == [True, False, False]
