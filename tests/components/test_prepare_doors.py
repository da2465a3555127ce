"""Files, cells and values as shops and public data sets have them: read, counted or refused."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.prepare_data.markup import clean_text
from components.prepare_data.spec import Settings
from components.prepare_data.validation import ValidationReport, validate
from macrec.core.errors import UserError
from macrec.core.storage.uris import content_digest
from tests.components.test_prepare_data import prepare

ITEMS = "item_id,title,description,image\n" + "".join(
    f"{n},Title {n},Text {n},{n}.jpg\n" for n in "abcdef"
)
LOG = "user_id,item_id,timestamp\n" + "".join(
    f"u{u},{n},{1_500_000_000 + 60 * t}\n" for u in range(3) for t, n in enumerate("abcdef")
)
ANY = Settings(min_interactions=0)


def source(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def checked(
    folder: Path, items: Path | str | None = None, log: Path | str | None = None, **settings: Any
) -> ValidationReport:
    """The report on a catalogue and a log, which are paths or texts of CSV files."""
    paths = [
        given if isinstance(given, Path) else source(folder, name, given or usual)
        for given, name, usual in ((items, "items.csv", ITEMS), (log, "log.csv", LOG))
    ]
    return validate(replace(ANY, **settings), *paths)


def noted(*given: Any, **settings: Any) -> list[str]:
    """The warnings about cells and files; that three users are few is no news."""
    return [w for w in checked(*given, **settings).warnings if "test case" not in w]


def zstd(content: str) -> bytes:
    return pa.compress(content.encode(), codec="zstd", asbytes=True)


# Files


def test_compressed_files_are_read_whatever_their_names(tmp_path):
    header, *rows = LOG.splitlines(keepends=True)
    parts = [header + "".join(rows[k::5]) for k in range(5)]
    for name, content in {
        "part-0.csv": parts[0],
        "part-1.csv.zst": zstd(parts[1]),
        "part-2.tsv": parts[2].replace(",", "\t"),
        "part-3": gzip.compress(parts[3].encode()),
        "part-4.csv.zstd": zstd(parts[4]),
        "part-5.csv": zstd(header + "u9,a,1500000000\n"),
    }.items():
        source(tmp_path / "log", name, content)
    found = checked(tmp_path, log=tmp_path / "log")
    assert not found.problems and found.metrics["interactions_read"] == 19
    assert [line for line in found.files if line.startswith("log/")] == [
        "log/part-0.csv: 4 rows",
        "log/part-1.csv.zst: 4 rows",
        "log/part-2.tsv: 4 rows, cells separated by '\\t'",
        "log/part-3: 3 rows",
        "log/part-4.csv.zstd: 3 rows",
        "log/part-5.csv: 1 rows",
    ]
    assert any("log/part-3: 3 rows" in line for line in found.lines())


def test_a_file_that_is_no_data_is_refused_by_name(tmp_path):
    source(tmp_path / "log", "a.csv", LOG)
    source(tmp_path / "log", "_SUCCESS", "")
    source(tmp_path / "log", ".a.csv.crc", "x")
    assert not checked(tmp_path, log=tmp_path / "log").problems
    source(tmp_path / "log", "notes.docx", "x")
    (problem,) = checked(tmp_path, log=tmp_path / "log").problems
    assert "1 of 2 files cannot be read as data: log/notes.docx" in problem


def test_a_partition_behind_a_link_is_read_once(tmp_path):
    rows = "item_id,timestamp\n" + "".join(
        f"{n},{1_500_000_000 + k}\n" for k, n in enumerate("abc")
    )
    source(tmp_path / "log/user_id=u1", "part.csv", rows)
    source(tmp_path / "elsewhere", "part.csv", rows)
    (tmp_path / "log/user_id=u2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "log")
    found = checked(tmp_path, log=tmp_path / "log")
    assert not found.problems
    assert (found.metrics["users"], found.metrics["interactions"]) == (2, 6)
    before = content_digest(str(tmp_path / "log"))
    source(tmp_path / "elsewhere", "part.csv", rows + "d,1500000009\n")
    assert content_digest(str(tmp_path / "log")) != before


def test_files_without_times_are_read_in_natural_order(tmp_path):
    for day, item in ((10, "c"), (2, "a"), (9, "b")):
        source(tmp_path / "log", f"day_{day}.csv", f"user_id,item_id\nu,{item}\n")
    found = checked(tmp_path, log=tmp_path / "log", timestamp_column="")
    assert [line.split(":")[0] for line in found.files][1:] == [
        *("log/day_2.csv", "log/day_9.csv", "log/day_10.csv")
    ]
    _, sequences, _ = prepare(
        tmp_path / "out",
        tmp_path / "items.csv",
        tmp_path / "log",
        replace(ANY, timestamp_column=""),
    )
    assert sequences[0]["item_index"] == [0, 1, 2]


# What kind of file it is


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", b"PK\x03\x04rest", ["Excel", "Export it as CSV"]),
        ("a.csv", b"\xd0\xcf\x11\xe0rest", ["Excel"]),
        ("a.csv", ITEMS.encode("utf-16-le"), ["encoding=utf-16-le"]),
        ("a.json", b'[{"item_id": "a"},\n {"item_id": "b"}]', ["JSON array", "object per line"]),
        ("a.json", b'{"a": {"title": "A"}, "b": {"title": "B"}}', ["maps ids to records"]),
        ("a.json", b'{"a": {"title": "' + b"x" * 70_000 + b'"}, "b": {}}', ["maps ids to records"]),
        ("a.json", b'{\n  "item_id": "a"\n}\n', ["over several lines"]),
        (
            "a.json.gz",
            gzip.compress(b"{'item_id': 'a', 'title': 'x'}\n", mtime=0),
            ["Python dicts"],
        ),
        ("a.csv", b"<!DOCTYPE html><html>login</html>", ["web page"]),
        ("a.csv", b"SQLite format 3\0", ["SQLite"]),
        ("a.csv.bz2", b"BZh91AY", ["bzip2", "Decompress it"]),
        ("a.csv.xz", b"\xfd7zXZ\x00", ["xz", "Decompress it"]),
        ("a.csv", b"<!doctype HTML>", ["web page"]),
        ("a.parquet.gz", gzip.compress(b"PAR1...", mtime=0), ["compressed Parquet"]),
    ],
)
def test_content_that_is_not_what_the_name_says_is_refused(tmp_path, name, content, parts):
    (problem,) = checked(tmp_path, source(tmp_path, name, content)).problems
    assert all(part in problem for part in [f": {name} ", *parts])
    assert problem.isprintable()


def test_content_decides_over_the_name(tmp_path):
    rows = [{"item_id": n, "title": n, "description": "", "image": None} for n in "abcdef"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet.csv")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    paths = [
        tmp_path / "parquet.csv",
        source(tmp_path, "lines.csv", lines),
        source(tmp_path, "gzip.csv", gzip.compress(ITEMS.encode())),
        source(tmp_path, "marked.csv", ITEMS.encode("utf-16")),
        source(tmp_path, "semicolons.csv", ITEMS.replace(",", ";")),
    ]
    for path in paths:
        found = checked(tmp_path, path)
        assert not found.problems, path
        assert found.metrics["items_read"] == 6


def test_a_delimiter_may_be_set(tmp_path):
    items = ITEMS.replace(",", "^")
    assert checked(tmp_path, items).problems
    assert not checked(tmp_path, items, LOG.replace(",", "^"), delimiter="^").problems


def test_an_encoding_may_be_set(tmp_path):
    path = source(tmp_path, "items.csv", ITEMS.replace("Title a", "Café").encode("cp1252"))
    (problem,) = checked(tmp_path, path).problems
    assert "items.csv line 2: not UTF-8" in problem and "prepare_data.encoding" in problem
    log = LOG.replace("u0", "Mü")  # one setting serves both files
    assert not checked(tmp_path, path, log, encoding="cp1252").problems
    path = source(tmp_path, "items.csv", ITEMS.replace("Title a", "Café").encode("cp1252"))
    items, sequences, _ = prepare(
        tmp_path / "out", path, tmp_path / "log.csv", replace(ANY, encoding="cp1252")
    )
    assert (items[0]["title"], sequences[0]["user_id"]) == ("Café", "Mü")
    marked = source(tmp_path, "items.csv", b"\xef\xbb\xbf" + ITEMS.encode())
    assert not checked(tmp_path, marked, encoding="cp1252").problems
    wide = source(tmp_path, "items.csv", ITEMS.encode("utf-16-le"))  # the advice of its refusal
    assert not checked(tmp_path, wide, encoding="utf-16-le").problems
    with pytest.raises(UserError, match="encoding"):
        replace(ANY, encoding="cp12520")


def test_files_without_a_header(tmp_path):
    log = LOG.split("\n", 1)[1]
    problems = checked(tmp_path, log=log).problems
    assert any("prepare_data.log_columns" in problem for problem in problems)
    assert not checked(tmp_path, log=log, log_columns=("user_id", "item_id", "timestamp")).problems


def test_raw_bytes_never_reach_a_message(tmp_path):
    content = bytes(range(1, 32)) + b",\x1b[31mx\n1,2\n"
    for problem in checked(tmp_path, source(tmp_path, "a.csv", content)).problems:
        assert "\x1b" not in problem and problem.replace("\n", "").isprintable()


def test_special_files_and_the_same_file_twice_are_refused(tmp_path):
    source(tmp_path / "log", "a.csv", LOG)
    (tmp_path / "log/broken.csv").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "log/pipe.csv")
    (tmp_path / "log/latest.csv").symlink_to(tmp_path / "log/a.csv")
    (problem,) = checked(tmp_path, log=tmp_path / "log").problems
    assert "3 of 4 files cannot be read" in problem
    assert "log/latest.csv is the same file as log/a.csv" in problem
    assert "log/broken.csv is a broken link" in problem and "log/pipe.csv is" in problem
    (problem,) = checked(tmp_path, log=tmp_path / "log/pipe.csv").problems
    assert "pipe" in problem


def test_a_partition_linked_to_another_is_read_too(tmp_path):
    rows = "item_id,timestamp\n" + "".join(
        f"{n},{1_500_000_000 + k}\n" for k, n in enumerate("abc")
    )
    source(tmp_path / "log/user_id=u1", "part.csv", rows)
    (tmp_path / "log/user_id=u2").symlink_to("user_id=u1")
    assert checked(tmp_path, log=tmp_path / "log").metrics["users"] == 2


def test_a_header_is_no_row(tmp_path):
    columns = ("user_id", "item_id", "timestamp")
    assert any(
        "log.csv line 1: is a header; remove" in problem
        for problem in checked(tmp_path, log_columns=columns).problems
    )
    problems = checked(tmp_path, log=LOG + LOG).problems
    assert any("log.csv line 20: is a header" in problem for problem in problems)


def test_an_empty_file_among_others_is_reported(tmp_path):
    source(tmp_path / "log", "day_1.csv", LOG)
    source(tmp_path / "log", "day_2.csv", LOG.split("\n")[0] + "\n")
    assert any(
        "1 files have no rows (first: log/day_2.csv)" in warning
        for warning in noted(tmp_path, log=tmp_path / "log")
    )


def test_what_is_read_otherwise_is_noted(tmp_path):
    log = LOG.replace("timestamp\n", "timestamp,shop\n").replace("00\n", "00,x\n")
    log = log.replace("60\n", "60,x\n").replace("20\n", "20,x\n").replace("80\n", "80,x\n")
    log = log.replace("40\n", "40,x\n")
    found = checked(tmp_path, log=log)
    assert not found.problems
    assert "log.csv: columns that are not used: shop" in found.notes
    assert "log.csv: times from 2017-07-14 02:40 to 2017-07-14 02:45 UTC" in found.notes
    rated = log.replace("shop", "rating").replace(",x\n", ",5\n")
    assert any("each row counts as positive" in w for w in noted(tmp_path, log=rated))


def test_text_of_a_wrong_encoding_is_reported(tmp_path):
    found = noted(tmp_path, ITEMS.replace("Title a", "M\u00c3\u00bcller"))
    assert any("1 cells look as if their file was decoded" in warning for warning in found)


def test_users_that_look_alike_are_reported(tmp_path):
    log = LOG + LOG.split("\n", 1)[1].replace("u0", "4").replace("u1", "4.0")
    assert any("2 user ids differ only in case" in warning for warning in noted(tmp_path, log=log))


# Cells


def row_of(folder: Path, items: Path | str, log: str = LOG, **settings: Any) -> dict[str, Any]:
    """The first item as the stage writes it."""
    path = items if isinstance(items, Path) else source(folder, "items.csv", items)
    config = replace(ANY, **settings)
    found, _, _ = prepare(folder / "out", path, source(folder, "log.csv", log), config)
    return found[0]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("\"['b', 'c']\"", "Title a\nb, c"),
        ('"[""b"", null, ""c""]"', "Title a\nb, c"),
        ("[]", "Title a"),
        ("[Remastered]", "Title a\n[Remastered]"),
        ("[2020]", "Title a\n[2020]"),
    ],
)
def test_lists_in_cells_of_a_text_column(tmp_path, cell, text):
    items = ITEMS.replace("Text a", cell)
    assert row_of(tmp_path, items)["text"] == text
    warned = [w for w in noted(tmp_path, items) if "contain a list" in w]
    assert len(warned) == (text != f"Title a\n{cell}")
    if warned:
        assert "1 cells" in warned[0] and "'description'" in warned[0] and "line 2" in warned[0]


def test_a_list_that_cannot_be_parsed_is_counted(tmp_path):
    (warning,) = noted(tmp_path, ITEMS.replace("Text a", "['b]"))
    assert "1 cells look like a list" in warning and "items.csv line 2" in warning


def test_nulls_inside_lists_are_skipped_in_every_format(tmp_path):
    texts = [["b", None, "c"], None, [None], [], ["d"], ["e"]]
    rows = [
        {"item_id": n, "title": n, "description": t} for n, t in zip("abcdef", texts, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    lines = source(tmp_path, "items.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    log = source(tmp_path, "log.csv", LOG)
    found = [
        [row["text"] for row in prepare(tmp_path / f"out{k}", path, log, ANY)[0]]
        for k, path in enumerate((tmp_path / "items.parquet", lines))
    ]
    assert found[0] == found[1] == ["a\nb, c", "b", "c", "d", "e\nd", "f\ne"]


def test_a_path_of_windows_is_read(tmp_path):
    assert row_of(tmp_path, ITEMS.replace("a.jpg", "shoes\\a.jpg"))["image_uri"] == "shoes/a.jpg"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_of_several_pictures_the_first_is_used(tmp_path, kind):
    images = [["a1.jpg", "a2.jpg", "a3.jpg"], ["b.jpg"], [None, "c.jpg"], [], None, ["f.jpg", "f"]]
    rows = [{"item_id": n, "title": n, "image": i} for n, i in zip("abcdef", images, strict=True)]
    path = tmp_path / f"items.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        source(tmp_path, path.name, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [f'{r["item_id"]},x,"{r["image"] or ""}"\n' for r in rows]
        source(tmp_path, path.name, "item_id,title,image\n" + "".join(cells))
    found, _, _ = prepare(tmp_path / "out", path, source(tmp_path, "log.csv", LOG), ANY)
    expected = ["a1.jpg", "b.jpg", "c.jpg", None, None, "f.jpg"]
    assert [row["image_uri"] for row in found] == expected
    (warning,) = noted(tmp_path, path)
    assert "2 items name several pictures" in warning and "'image' (image_column)" in warning


@pytest.mark.parametrize(
    "cell", ["['a.jpg' 'b.jpg']", "('a.jpg','b.jpg')", "[1, 2]", "array(['a.jpg'])", "{'a'}"]
)
def test_a_path_that_is_several_in_some_notation_is_reported(tmp_path, cell):
    items = ITEMS.replace("a.jpg", f'"{cell}"')
    (warning,) = noted(tmp_path, items)
    assert "1 cells look like a list" in warning and "'image'" in warning
    assert row_of(tmp_path, items)["image_uri"] == cell


def test_several_items_in_a_cell(tmp_path):
    rows = [f"u{u},a-1 b-0 c-1,150000000{t}\n" for u in range(3) for t in range(2)]
    log = "user_id,item_id,timestamp\n" + "".join([*rows, "u9,b-0,1500000000\n"])
    found = checked(tmp_path, log=log, item_pattern=r"(\S+)-1(?!\S)")
    assert not found.problems and found.metrics["interactions_read"] == 12
    assert any("1 rows have no match of prepare_data.item_pattern" in w for w in found.warnings)


def test_a_date_that_does_not_exist_is_no_time(tmp_path):
    log = LOG
    for k in range(6):
        log = log.replace(str(1_500_000_000 + 60 * k), f"{26 + k}/02/2024")
    (problem,) = checked(tmp_path, log=log, timestamp_format="%d/%m/%Y").problems
    assert "6 of 18 values" in problem and "log.csv line 6: '30/02/2024'" in problem
    assert "timestamp_format=%d/%m/%Y" in problem


def test_a_list_of_dicts_names_the_column(tmp_path):
    rows = [{"item_id": n, "title": n, "images": [{"large": "x.jpg"}]} for n in "abcdef"]
    path = source(tmp_path, "items.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert not checked(tmp_path, path).problems
    (problem,) = checked(tmp_path, path, image_column="images").problems
    assert "'images' is " in problem and "expected a path or a list of paths" in problem


def test_a_lost_closing_quote_is_reported(tmp_path):
    items = ITEMS.replace("Title b,", '"Title b,').replace("Title c,", 'Title 17",')
    (warning, *_) = noted(tmp_path, items, LOG, unknown_items="drop")
    assert "1 cells contain the end of one row" in warning and "items.csv line 3" in warning
    assert "quote_character" in warning


@pytest.mark.parametrize(
    "rows",
    [
        'item_id,title,image\na,"Foo\nbar,a.jpg\nb,Screen 17",b.jpg\n',
        'item_id,title,image\na,"Foo,a.jpg\nSKU 1,Screen 17",b.jpg\n',
        'title,item_id,image\n"Foo,a,a.jpg\nScreen 17",b,b.jpg\n',
        'item_id,title,image\na,"Foo,a.jpg\rb,Screen 17",b.jpg\n',
        'item_id,title,image\na,"Foo,a.jpg\nb,Whole,b.jpg\nc,Screen 17",c.jpg\n',
    ],
)
def test_every_shape_of_a_lost_quote_is_reported(tmp_path, rows):
    found = noted(tmp_path, rows, unknown_items="drop")
    assert any("1 cells contain the end of one row" in warning for warning in found)


def test_line_breaks_in_cells_are_no_lost_quotes(tmp_path):
    items = ITEMS.replace("Text a", '"Good, cheap\nand small"').replace("Title b", '"Two\nlines"')
    assert not noted(tmp_path, items)


def test_a_cell_of_great_length_is_reported(tmp_path):
    (warning,) = noted(tmp_path, ITEMS.replace("Text c", "x" * 100_001))
    assert "more than 100,000 characters" in warning and "items.csv line 4" in warning


def test_words_for_null_are_counted_and_ids_stay_exact(tmp_path):
    items = ITEMS.replace("a,Title a,Text a", "nan,NULL,\\N")
    log = LOG.replace(",a,", ",nan,").replace("u1,", "None,")
    found = checked(tmp_path, items, log)
    assert not found.problems
    for column, where in (
        ("'item_id' (item_id_column)", "items.csv line 2"),
        ("'title'", "items.csv line 2"),
        ("'description'", "items.csv line 2"),
        ("'user_id' (user_id_column)", "log.csv line 8"),
        ("'item_id' (interaction_item_column)", "log.csv line 2"),
    ):
        assert [w for w in found.warnings if column in w and where in w], column
    assert row_of(tmp_path, items, log)["item_id"] == "nan"


def test_nan_in_json_is_null(tmp_path):
    rows = [f'{{"item_id": "{n}", "title": "{n}", "description": NaN}}\n' for n in "abcdef"]
    path = source(tmp_path, "items.jsonl", "".join(rows))
    assert not noted(tmp_path, path)
    assert row_of(tmp_path, path)["text"] == "a"
    path.write_text(rows[1].replace('"b"', "NaN", 1))
    assert "have no item id" in checked(tmp_path, path).problems[0]


def test_numbers_as_ids(tmp_path):
    items = ITEMS
    for number, name in enumerate("abcdef"):
        items = items.replace(f"\n{name},", f"\n{number},")
    log = LOG
    for number, name in enumerate("abcdef"):
        log = log.replace(f",{name},", f",{number}.0,")
    (problem,) = checked(tmp_path, items, log).problems
    assert "18 of 18 rows" in problem and "final '.0'" in problem
    table = pa.table({"item_id": [1.0, 2.0], "title": ["x", "y"]})
    pq.write_table(table, tmp_path / "items.parquet")
    (problem, *_) = checked(tmp_path, tmp_path / "items.parquet").problems
    assert "item_id_column" in problem and "whole numbers" in problem


# Values


def test_markup_is_removed_and_counted(tmp_path):
    items = ITEMS.replace("Title a", "Tom &amp; Jerry&#39;s").replace(
        "Text a", "<b>Fine</b><br>new"
    )
    row = row_of(tmp_path, items)
    assert (row["title"], row["text"]) == ("Tom & Jerry's", "Tom & Jerry's\nFine new")
    warnings = noted(tmp_path, items)
    assert len(warnings) == 2 and all("1 cells contain HTML" in w for w in warnings)
    kept = row_of(tmp_path / "kept", source(tmp_path, "k/items.csv", items), keep_markup=True)
    assert kept["title"] == "Tom &amp; Jerry&#39;s"
    assert not noted(tmp_path, items, keep_markup=True)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("AT&T", "AT&T"),
        ("&lt;b&gt;", "<b>"),
        ("<script>alert(1)</script>x", "x"),
        ("a<!-- note -->b", "a b"),
        ("<p>one</p><p>two</p>", "one two"),
        ("&nosuch;", "&nosuch;"),
        ("if x<y and y>z", "if x<y and y>z"),
        ("List<String> &amp; <D3>", "List<String> & <D3>"),
        ("?a=1&para=2&copy=3 &amp; x", "?a=1&para=2&copy=3 & x"),
        ('<a href="x">y</a>', "y"),
        ("<script>never closed", "never closed"),
    ],
)
def test_what_counts_as_markup(text, cleaned):
    assert clean_text(text) == cleaned


def test_ratings_below_the_threshold_are_dropped(tmp_path):
    rows = [line.split(",") for line in LOG.splitlines()[1:]]
    ratings = ["5", "4.0", "3.5", "", "1", "4"] * 3
    log = "user_id,item_id,timestamp,rating\n" + "".join(
        f"{','.join(row)},{rating}\n" for row, rating in zip(rows, ratings, strict=True)
    )
    assert checked(tmp_path, log=log).metrics["interactions"] == 18
    found = checked(tmp_path, log=log, min_rating=4)
    assert found.metrics["interactions_dropped_low_rating"] == 9
    assert found.metrics["interactions"] == 9 and not found.problems
    low = log.replace(",5\n", ",1\n", 1).replace(",4.0\n", ",1\n", 1).replace(",4\n", ",1\n", 1)
    found = checked(tmp_path, log=low, min_rating=4)  # no high rating of the first user is left
    assert (found.metrics["users_read"], found.metrics["users"]) == (3, 2)
    (problem, *_) = checked(tmp_path, log=log.replace(",3.5", ",good"), min_rating=4).problems
    assert "3 of 18 values of 'rating'" in problem and "min_rating" in problem
    (problem,) = checked(tmp_path, min_rating=4).problems
    assert "no column 'rating' (rating_column)" in problem


def test_a_picture_path_may_come_from_a_template(tmp_path):
    row = row_of(tmp_path, ITEMS, image_path="{title:.3}/{item_id}.jpg")
    assert row["image_uri"] == "Tit/a.jpg"
    for wrong in ("x.jpg", "{}.jpg", "{item_id!r}.jpg", "{item_id:>9}.jpg", "{item_id"):
        with pytest.raises(UserError, match="image_path"):
            replace(ANY, image_path=wrong)
    (problem,) = checked(tmp_path, image_path="{asin}.jpg").problems
    assert "no column 'asin' (image_path)" in problem
