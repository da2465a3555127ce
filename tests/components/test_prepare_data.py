"""The stage prepare_data: what it writes, and what it says about bad input."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.prepare_data.spec import Execution, Inputs, Outputs, Settings
from components.prepare_data.stage import run
from components.prepare_data.validation import validate
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError
from tests.jobs import job

Rows = list[dict[str, Any]]
LOOSE = Settings(min_interactions=0)


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"item_id": name, "title": f"Title {name}", **more}


def event(user: str, name: str, time: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": name, "timestamp": time}


ITEMS = [item(name, image=f"{name}.jpg") for name in ("a", "b", "c")]
LOG = [event(u, i, 1_500_000_000 + t) for u in ("u", "v") for t, i in enumerate(("a", "b", "c"))]


def write(path: Path, rows: Iterable[dict[str, Any]] | str | bytes) -> Path:
    """JSON lines, or the text as it is."""
    if isinstance(rows, str):
        rows = rows.encode()
    if not isinstance(rows, bytes):
        rows = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(rows)
    return path


def prepare(folder: Path, items: Path, log: Path, config: Settings) -> tuple[Rows, Rows, dict]:
    """Runs the stage; the rows of both artifacts, and the metrics."""
    outputs = Outputs(
        items=DatasetOutput(folder / "items"), sequences=DatasetOutput(folder / "sequences")
    )
    outputs.items.prepare()
    outputs.sequences.prepare()
    inputs = Inputs(catalog=Source(str(items)), interactions=Source(str(log)))
    metrics = run(job(config, inputs, outputs, Execution()))
    outputs.items.commit({})
    outputs.sequences.commit({})
    tables = [Artifact.open(folder / name).table() for name in ("items", "sequences")]
    return tables[0].to_pylist(), tables[1].to_pylist(), metrics


def small(
    tmp_path: Path, items: Any, log: Any, config: Settings = LOOSE
) -> tuple[Rows, Rows, dict]:
    paths = write(tmp_path / "items.jsonl", items), write(tmp_path / "log.jsonl", log)
    return prepare(tmp_path / "out", *paths, config)


def problems(tmp_path: Path, items: Any, log: Any, config: Settings = LOOSE) -> list[str]:
    paths = write(tmp_path / "items.jsonl", items), write(tmp_path / "log.jsonl", log)
    return validate(config, *paths).problems


def test_writes_items_in_the_order_of_the_catalogue_and_sequences_in_time_order(tmp_path):
    items = [
        item("00123", description="Ten pieces. ", image="x/1.jpg"),
        item("123", description="."),
        {"item_id": "NA", "title": "NA", "description": " "},
    ]
    log = [event("7", "NA", 30), event("7", "00123", 10), event("7", "123", 20)]
    found, sequences, metrics = small(tmp_path, items, log)
    assert found == [
        {
            "item_index": 0,
            "item_id": "00123",
            "title": "Title 00123",
            "text": "Title 00123\nTen pieces.",
            "image_uri": "x/1.jpg",
            "has_image": True,
        },
        {
            "item_index": 1,
            "item_id": "123",
            "title": "Title 123",
            "text": "Title 123",
            "image_uri": None,
            "has_image": False,
        },
        {
            "item_index": 2,
            "item_id": "NA",
            "title": "NA",
            "text": "NA",
            "image_uri": None,
            "has_image": False,
        },
    ]
    assert sequences == [
        {"user_id": "7", "item_index": [0, 1, 2], "timestamp": [10_000, 20_000, 30_000]}
    ]
    assert metrics["items_without_image"] == 2 and metrics["items_without_text"] == 0


def test_without_timestamps_the_order_of_the_log_is_kept_and_repeats_stay(tmp_path):
    log = [{"user_id": "u", "item_id": name} for name in ("c", "a", "a", "b")]
    config = Settings(timestamp_column="", min_interactions=0)
    _, sequences, _ = small(tmp_path, ITEMS, log, config)
    assert sequences == [{"user_id": "u", "item_index": [2, 0, 0, 1], "timestamp": None}]


@pytest.mark.case(30)
def test_equal_times_keep_the_order_of_the_log_and_are_counted_at_the_split(tmp_path):
    log = [event("u", "c", 5), event("u", "a", 5), event("u", "b", 1), event("u", "a", 1)]
    log += [event("v", n, t) for n, t in (("a", 1), ("b", 1), ("c", 2), ("a", 3))]
    _, sequences, metrics = small(tmp_path, ITEMS, log)
    assert [row["item_index"] for row in sequences] == [[1, 0, 2, 0], [0, 1, 2, 0]]
    assert metrics["users_with_tie_at_split"] == 1  # v's tie is before the split


def test_exact_repeats_are_dropped_and_counted_later_ones_stay(tmp_path):
    log = [*LOG, LOG[0], event("u", "a", 1_500_000_009)]
    _, sequences, metrics = small(tmp_path, ITEMS, log)
    assert sequences[0]["item_index"] == [0, 1, 2, 0]
    assert metrics["interactions_dropped_duplicate"] == 1


def test_k_core_renumbers_the_items_that_stay(tmp_path):
    items = [item("rare"), *ITEMS]
    log = [*LOG, event("w", "rare", 1_500_000_000), event("w", "a", 1_500_000_001)]
    found, sequences, metrics = small(tmp_path, items, log, Settings(min_interactions=2))
    assert [row["item_id"] for row in found] == ["a", "b", "c"]
    assert [row["item_index"] for row in found] == [0, 1, 2]
    assert [row["item_index"] for row in sequences] == [[0, 1, 2]] * 2
    assert metrics["items_dropped_rare"] == 1 and metrics["users_dropped"] == 1


def test_without_k_core_items_nobody_met_stay_and_short_users_go(tmp_path):
    log = [*LOG, event("w", "a", 1_500_000_000)]
    for minimum in (0, 1):
        folder = tmp_path / str(minimum)
        folder.mkdir()
        config = Settings(min_interactions=minimum)
        found, sequences, metrics = small(folder, [*ITEMS, item("new")], log, config)
        assert [row["item_id"] for row in found] == ["a", "b", "c", "new"]
        assert [row["user_id"] for row in sequences] == ["u", "v"]
        assert metrics["users_too_short"] == 1


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"), [("keep", ["a", "b", "c", "x"], 0), ("drop", ["a", "b", "c"], 2)]
)
@pytest.mark.parametrize("minimum", [0, 2])
def test_items_without_image_are_kept_or_dropped_with_their_interactions(
    tmp_path, policy, kept, dropped, minimum
):
    log = [*LOG, event("u", "x", 1_600_000_000), event("v", "x", 1_600_000_000)]
    config = Settings(min_interactions=minimum, missing_image=policy)
    found, _, metrics = small(tmp_path, [*ITEMS, item("x", image=" ")], log, config)
    assert [row["item_id"] for row in found] == kept
    assert metrics["interactions_dropped_no_image"] == dropped


def test_every_row_that_was_read_is_accounted_for(tmp_path):
    log = [*LOG, LOG[0], event("u", "zz", 1_500_000_000), event("u", "x", 1_500_000_005)]
    log += [event("w", "a", 1_500_000_000)]
    config = Settings(min_interactions=2, missing_image="drop", unknown_items="drop")
    _, sequences, metrics = small(tmp_path, [*ITEMS, item("x")], log, config)
    reasons = ("unknown_item", "no_image", "duplicate", "rare")
    counts = [metrics[f"interactions_dropped_{reason}"] for reason in reasons]
    assert counts == [1, 1, 1, 1]
    assert metrics["interactions"] + sum(counts) == metrics["interactions_read"] == len(log)
    assert metrics["interactions"] == sum(len(row["item_index"]) for row in sequences)
    assert metrics["mean_length"] == 3 and metrics["density"] == 1


@pytest.mark.case(29)
def test_unknown_items_up_to_one_percent_are_dropped_with_a_warning(tmp_path):
    log = [event(f"u{k}", name, 1_500_000_000 + k) for k in range(33) for name in ("a", "b", "c")]
    items = write(tmp_path / "items.jsonl", ITEMS)
    exactly = write(tmp_path / "log.jsonl", [*log, event("u0", "A ", 1_500_000_000)])
    report = validate(LOOSE, items, exactly)
    assert not report.problems and report.metrics["interactions_dropped_unknown_item"] == 1
    assert any("1 of 100 rows name 1 items absent" in w and "'A '" in w for w in report.warnings)
    above = write(tmp_path / "above.jsonl", [*log[:90], event("u0", "A ", 1_500_000_000)])
    (problem,) = validate(LOOSE, items, above).problems
    assert "1 of 91 rows" in problem and "prepare_data.unknown_items=drop" in problem
    assert "1 of them match an item if case" in problem
    assert not validate(Settings(unknown_items="drop", min_interactions=0), items, above).problems


NO_TITLE = [{"item_id": name} for name in "abc"]
BAD = {
    "no column, the nearest and the flag": (
        [{"itemId": row["item_id"], "title": "x"} for row in ITEMS],
        LOG,
        LOOSE,
        [
            "items.jsonl: no column 'item_id' (item_id_column)",
            "set prepare_data.item_id_column=itemId.",
        ],
    ),
    "no column, nothing near": (
        NO_TITLE,
        LOG,
        LOOSE,
        [
            "items.jsonl: no column 'title' (title_column)",
            "It has item_id",
            "prepare_data.title_column",
        ],
    ),
    "a text column of one's own must exist": (
        ITEMS,
        LOG,
        Settings(text_columns=("title", "brand")),
        ["no column 'brand' (text_columns)", "prepare_data.text_columns"],
    ),
    "an image column of one's own must exist": (
        ITEMS,
        LOG,
        Settings(image_column="picture"),
        [
            "no column 'picture' (image_column)",
            "Set prepare_data.image_column= if there are no pictures.",
        ],
    ),
    "log columns": (
        ITEMS,
        [{"user": "u", "product": "a", "time": 1}],
        LOOSE,
        [
            "'user_id' (user_id_column)",
            "prepare_data.user_id_column=user",
            "prepare_data.timestamp_column=time",
        ],
    ),
    "empty catalogue": ("", LOG, LOOSE, ["items.jsonl: holds no rows"]),
    "empty log": (ITEMS, "", LOOSE, ["log.jsonl: holds no rows"]),
    "duplicate ids": (
        [*ITEMS, ITEMS[1], ITEMS[1]],
        LOG,
        LOOSE,
        ["1 item ids stand on more than one row, 3 rows in all (first: b)"],
    ),
    "no item id": (
        [*ITEMS, {"item_id": None, "title": "x"}, item(" ")],
        LOG,
        LOOSE,
        ["2 of 5 rows have no item id ('item_id') (first: items.jsonl line 4, items.jsonl line 5)"],
    ),
    "no user id, no item id": (
        ITEMS,
        [*LOG, event("", "a", 1_500_000_000), {"user_id": "u", "timestamp": 1_500_000_000}],
        LOOSE,
        ["1 of 8 rows have no id in 'user_id' (first: log.jsonl line 7)", "'item_id' (first: log"],
    ),
    "unknown items": (
        ITEMS,
        [*LOG, event("u", "zz", 1_500_000_000)],
        LOOSE,
        ["log.jsonl: 1 of 7 rows name 1 items absent from the catalogue (first: 'zz')"],
    ),
    "image paths": (
        [
            item(str(k), image=path)
            for k, path in enumerate(
                [
                    "/etc/x",
                    "a/../../x",
                    "C:\\x",
                    "gs://b/x",
                    "..",
                    "\\\\host\\x",
                    "file:x",
                    "ok..jpg",
                ]
            )
        ],
        LOG,
        LOOSE,
        ["7 image paths leave the image folder", "line 1: '/etc/x'", "line 7: 'file:x'"],
    ),
    "no image, to fail": (
        [*ITEMS, item("x")],
        LOG,
        Settings(missing_image="fail"),
        ["1 of 4 items have no image (first: x)", "prepare_data.missing_image"],
    ),
    "bad lines": (
        '{"item_id": "a", "title": "A"}\n\n[1]\n{"item_id": 1.5}\n{"item_id": "b", "title": "B"\n'
        '{"item_id": "c", "item_id": "c"}\n'
        + "[" * 100_000
        + '\n{"title": 1e999, "item_id": "\\u0000"}',
        LOG,
        LOOSE,
        [
            "6 lines or files cannot be read",
            "line 3: not a JSON object",
            "line 4: 'item_id' is 1.5",
            "line 5: ",
            "line 6: key 'item_id' twice",
            "line 7: ",
            "line 8: NUL",
        ],
    ),
    "not UTF-8": (
        b'{"item_id": "a", "title": "caf\xe9"}\n{"item_id": "\\ud800", "title": "B"}\n',
        LOG,
        LOOSE,
        ["2 lines", "line 1: not UTF-8", "line 2: not UTF-8"],
    ),
    "no time": (
        ITEMS,
        [*LOG, event("u", "a", None)],
        LOOSE,
        [
            "1 of 7 rows have no time in 'timestamp' (first: log.jsonl line 7)",
            "prepare_data.timestamp_column=",
        ],
    ),
    "bad times": (
        ITEMS,
        [*LOG, event("u", "a", -1), event("u", "a", "yesterday"), event("u", "a", float("inf"))],
        LOOSE,
        ["3 of 9 values of 'timestamp' are no time", "line 7: '-1'", "line 8: 'yesterday'"],
    ),
    "mixed units": (
        ITEMS,
        [*LOG, event("u", "a", 1_500_000_000_000)],
        LOOSE,
        ["'timestamp' mixes units (6 in seconds, 1 in milliseconds)"],
    ),
    "nothing is left": (
        ITEMS,
        LOG,
        Settings(min_interactions=4),
        [
            "min_interactions=4",
            "2 users, 3 items, 6 interactions, then 0 users",
            "most active user has 3",
            "at least 4, whatever min_interactions is",
        ],
    ),
    "short users": (
        ITEMS,
        [event("u", "a", 1), event("u", "b", 2), event("v", "a", 1)],
        LOOSE,
        ["2 users had fewer than 3"],
    ),
    "one item": (
        [ITEMS[0]],
        [event("u", "a", t) for t in range(5)],
        LOOSE,
        ["1 items", "Too little"],
    ),
    "no such file": (ITEMS, None, LOOSE, ["absent.csv: no such file or folder"]),
}


@pytest.mark.case(27, 28, 29, 30, 31)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(tmp_path, case):
    items, log, config, parts = BAD[case]
    items_path = write(tmp_path / "items.jsonl", items)
    log_path = tmp_path / "absent.csv" if log is None else write(tmp_path / "log.jsonl", log)
    found = validate(config, items_path, log_path)
    for part in parts:
        assert any(part in problem for problem in found.problems), (part, found.problems)
    assert found.lines()[-1].startswith(f"{len(found.problems)} problems")
    with pytest.raises(UserError):
        found.checked()


def test_all_problems_come_in_one_message_and_nothing_is_written(tmp_path):
    items = write(tmp_path / "items.jsonl", [ITEMS[0], ITEMS[0], item("x", image="../x")])
    log = write(tmp_path / "log.jsonl", [event("u", "zz", -1), event("", "a", 5)])
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "out", items, log, LOOSE)
    for part in (
        "more than one row",
        "image paths",
        "absent from",
        "no id in 'user_id'",
        "no time",
    ):
        assert part in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.parquet"))


@pytest.mark.case(27)
def test_good_input_has_no_problem_and_ids_that_look_alike_are_warned_of(tmp_path):
    alike = ["Caf\u00e9", "cafe\u0301", "\ufeffx", "X ", "y"]
    items = write(tmp_path / "items.jsonl", [item(name) for name in alike])
    log = [event("u", name, k) for k, name in enumerate(alike)]
    report = validate(LOOSE, items, write(tmp_path / "log.jsonl", log))
    assert report.problems == [] and report.metrics["item_ids_look_alike"] == 4
    assert any("4 item ids differ only in case" in warning for warning in report.warnings)
    assert report.lines()[-1].startswith("no problems") and "items: 5" in report.lines()


@pytest.mark.case(33)
def test_exotic_text_is_kept_exactly(tmp_path):
    title = "=HYPERLINK <script> \u202e\u200d👩‍👩‍👧 \u2028 \x01"
    items = [{"item_id": "a", "title": title}, *ITEMS[1:]]
    found, _, _ = small(tmp_path, items, LOG, replace(LOOSE, keep_markup=True))
    assert found[0]["title"] == title


def test_the_default_text_follows_the_title_column(tmp_path):
    items = [{"item_id": n, "name": f"N {n}", "description": ["x", "y"]} for n in "abc"]
    found, _, _ = small(tmp_path, items, LOG, Settings(title_column="name", min_interactions=0))
    assert (found[0]["title"], found[0]["text"]) == ("N a", "N a\nx, y")


def test_same_input_same_bytes(tmp_path):
    paths = write(tmp_path / "items.jsonl", ITEMS), write(tmp_path / "log.jsonl", LOG)
    for name in ("first", "second"):
        prepare(tmp_path / name, *paths, LOOSE)
    digests = {
        Artifact.open(tmp_path / name / kind).digest
        for name in ("first", "second")
        for kind in ("items", "sequences")
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"item_id_column": ""},
        {"text_columns": ()},
        {"text_columns": ("title", "")},
        {"min_interactions": -1},
        {"user_id_column": "item_id"},
        {"title_column": "item_id"},
    ],
)
def test_config_is_checked(wrong):
    with pytest.raises(UserError):
        Settings(**wrong)


def test_parquet_ids_keep_their_type_as_text(tmp_path):
    pq.write_table(
        pa.table({"item_id": [1, 2, 3], "title": ["a", "b", "c"]}), tmp_path / "i.parquet"
    )
    log = pa.table({"user_id": [9, 9, 9], "item_id": [3, 1, 2], "timestamp": [1, 2, 3]})
    encoded = log.set_column(1, "item_id", log["item_id"].dictionary_encode())
    pq.write_table(encoded, tmp_path / "log.parquet")
    _, sequences, _ = prepare(tmp_path, tmp_path / "i.parquet", tmp_path / "log.parquet", LOOSE)
    assert (sequences[0]["user_id"], sequences[0]["item_index"]) == ("9", [2, 0, 1])
