"""Ids that look alike, catalogues of next to nothing, times of all kinds: by the real stage."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.prepare_data.spec import Settings
from components.prepare_data.timestamps import to_microseconds
from components.prepare_data.validation import validate
from tests.attacks.limited import Ended, run_stage


def write(folder: Path, items: list[str], log: list[tuple[str, str, object]]) -> tuple[Path, Path]:
    """Catalogue and log as JSON lines."""
    rows = [{"item_id": name, "title": f"Title {name}"} for name in items]
    events = [{"user_id": u, "item_id": i, "timestamp": t} for u, i, t in log]
    for name, content in (("items", rows), ("log", events)):
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(text)
    return folder / "items.jsonl", folder / "log.jsonl"


def prepared(folder: Path, items: list[str], log: list[tuple[str, str, object]]) -> Ended:
    catalogue, interactions = write(folder, items, log)
    return run_stage(
        "prepare_data",
        folder,
        *("--catalog", catalogue, "--interactions", interactions),
        *("--out", folder / "out", "--set=min_interactions=0"),
    )


def log_of(items: list[str], users: int = 3) -> list[tuple[str, str, object]]:
    """Every user meets every item."""
    return [(f"u{u}", i, 1_500_000_000 + t) for u in range(users) for t, i in enumerate(items)]


@pytest.mark.case(27)
def test_exact_duplicates_are_refused_with_the_first_ten(tmp_path):
    ids = [f"i{k:02}" for k in range(15)]
    ended = prepared(tmp_path, [*ids, *ids[:12]], log_of(ids))
    assert ended.code == 2 and "Traceback" not in ended.log
    assert "12 item ids stand on more than one row, 24 rows in all" in ended.log
    assert all(name in ended.log for name in ids[:10]) and "i10" not in ended.log


ALIKE = {
    "Unicode form": ("caf\u00e9", "cafe\u0301"),
    "trailing space": ("x", "x "),
    "byte order mark": ("y", "\ufeffy"),
    "case": ("Abc", "aBC"),
    "no-break space": ("z", "\u00a0z"),
}


@pytest.mark.case(27)
@pytest.mark.parametrize("kind", ALIKE)
def test_ids_that_look_alike_stay_apart_with_a_warning(tmp_path, kind):
    ids = ["a", "b", *ALIKE[kind]]
    found = validate(Settings(min_interactions=0), *write(tmp_path, ids, log_of(ids)))
    assert found.problems == [] and found.metrics["items"] == 4
    (warning,) = [text for text in found.warnings if "item ids" in text]
    assert "2 item ids differ only in case, outer spaces or Unicode form" in warning
    assert found.prepared and np.unique(found.prepared.log.item).size == 4


@pytest.mark.case(29)
def test_unknown_items_that_only_look_like_known_ones_are_said_to(tmp_path):
    log = [*log_of(["a", "b", "c"]), ("u9", "A ", 1_500_000_000)]
    (problem,) = validate(
        Settings(min_interactions=0), *write(tmp_path, ["a", "b", "c"], log)
    ).problems
    assert "(first: 'A ')" in problem and "1 of them match an item if case" in problem


NEXT_TO_NOTHING = {
    "empty catalogue": ([], log_of(["a"]), "items.jsonl: holds no rows"),
    "empty log": (["a", "b", "c"], [], "log.jsonl: holds no rows"),
    "one item": (["a"], [("u", "a", 1_500_000_000 + t) for t in range(5)], "Too little is left"),
    "short users": (
        ["a", "b", "c"],
        [(f"u{u}", i, 1_500_000_000) for u in range(9) for i in "ab"],
        "9 users had fewer than 3",
    ),
}


@pytest.mark.case(28)
@pytest.mark.parametrize("case", NEXT_TO_NOTHING)
def test_next_to_nothing_is_refused_within_seconds_before_any_model_loads(tmp_path, case):
    items, log, message = NEXT_TO_NOTHING[case]
    ended = prepared(tmp_path, items, log)
    assert ended.code == 2 and "Traceback" not in ended.log and message in ended.log, ended.log
    assert ended.processor < 5
    assert ended.peak < 300 << 20, "torch alone takes more"


MOMENTS = st.integers(200_000_000, 2_000_000_000) | st.integers(1_500_000_000, 1_500_000_004)
TIMES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), MOMENTS),
    min_size=1,
    max_size=40,
)


@pytest.mark.case(30)
@settings(deadline=None, max_examples=40)
@given(events=TIMES, seed=st.integers(0, 99), unit=st.sampled_from([1, 1_000]))
def test_no_test_event_stands_before_its_train_events(tmp_path_factory, events, seed, unit):
    """Whatever the order of the log, in seconds or milliseconds; ties keep the log's order."""
    order = np.random.default_rng(seed).permutation(len(events))
    log = [(f"u{events[k][0]}", f"i{events[k][1]}", events[k][2] * unit) for k in order]
    folder = tmp_path_factory.mktemp("log")
    items = [f"i{k}" for k in range(6)]
    config = Settings(min_interactions=0, latest_time="2100-01-01")
    found = validate(config, *write(folder, items, log))
    if found.problems:
        assert "Too little is left" in found.problems[0]
        return
    assert found.prepared is not None
    rows = found.prepared.log
    assert rows.micros is not None
    for user in np.unique(rows.user):
        times = rows.micros[rows.user == user]
        assert len(times) >= 3 and (np.diff(times) >= 0).all()
        name = found.prepared.user_ids[int(user)].as_py()
        given_rows = {(t * 1_000_000 // unit, i) for u, i, t in log if u == name}
        pairs = zip(times.tolist(), rows.item[rows.user == user].tolist(), strict=True)
        assert {(t, f"i{i}") for t, i in pairs} == given_rows


@pytest.mark.case(30)
@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(st.none(), st.text(max_size=30), st.integers(), st.floats()), max_size=6))
def test_whatever_stands_for_a_time_is_one_or_marked(values):
    texts = [None if v is None else str(v).encode("utf-8", "replace").decode() for v in values]
    times = to_microseconds(pa.array(texts, pa.large_string()))
    good = ~times.bad & ~times.null
    assert (times.micros[good] >= 0).all() and sum(times.units.values()) == good.sum()


@pytest.mark.case(30)
def test_units_must_not_be_mixed_and_times_before_1970_are_named(tmp_path):
    log = [*log_of(["a", "b", "c"]), ("u0", "a", 1_500_000_000_000), ("u1", "b", -5)]
    found = validate(Settings(min_interactions=0), *write(tmp_path, ["a", "b", "c"], log)).problems
    assert any("mixes units (9 in seconds, 1 in milliseconds)" in problem for problem in found)
    assert any("1 of 11 values" in problem and "'-5'" in problem for problem in found)
