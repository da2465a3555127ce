"""Reading CSV, JSON lines and Parquet in every layout, and the benchmark converter."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.data.amazon import convert
from components.prepare_data.files import find_files
from components.prepare_data.readers import Reader
from components.prepare_data.spec import Execution, Inputs, Outputs, Settings
from components.prepare_data.stage import run
from components.prepare_data.validation import validate
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError
from tests.jobs import job

Rows = list[dict[str, Any]]

ITEMS: Rows = [
    {
        "item_id": f"00{k}",
        "title": f'Nr. {k}, "big"\nand é',
        "description": "NA",
        "image": f"{k}.jpg",
    }
    for k in range(7)
]
LOG: Rows = [
    {"user_id": f"0{u}", "item_id": f"00{(u + t) % 7}", "timestamp": 1_500_000_000 + t * 7}
    for u in range(5)
    for t in range(6)
]


def as_csv(rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FORMATS = {
    ".csv": as_csv,
    ".csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    ".jsonl": as_jsonl,
    ".ndjson.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    ".parquet": as_parquet,
    ".csv with a byte order mark": lambda rows: b"\xef\xbb\xbf" + as_csv(rows),
    ".csv with CRLF": lambda rows: as_csv(rows).replace(b"\n", b"\r\n"),
}


def one_file(folder: Path, rows: Rows, suffix: str) -> Path:
    path = folder / f"data{suffix.split(' ')[0]}"
    path.write_bytes(FORMATS[suffix](rows))
    return path


def many_files(folder: Path, rows: Rows, suffix: str) -> Path:
    target = folder / "data"
    (target / "b").mkdir(parents=True)
    (target / "_SUCCESS").touch()
    end = suffix.split(" ")[0]
    (target / f"a-9{end}").write_bytes(FORMATS[suffix](rows[:2]))
    (target / f"a-10{end}").write_bytes(FORMATS[suffix](rows[2:3]))
    (target / f"b/part{end}").write_bytes(FORMATS[suffix](rows[3:]))
    return target


def hive(folder: Path, rows: Rows, suffix: str) -> Path:
    """One partition for each run of rows with the same value of the first column."""
    key = next(iter(rows[0]))
    for value in dict.fromkeys(row[key] for row in rows):
        target = folder / "data" / f"{key}={value}"
        target.mkdir(parents=True)
        rest = [{k: v for k, v in row.items() if k != key} for row in rows if row[key] == value]
        (target / f"part{suffix.split(' ')[0]}").write_bytes(FORMATS[suffix](rest))
    return folder / "data"


def digests(folder: Path, items: Path, log: Path, config: Settings) -> tuple[str, str]:
    outputs = Outputs(items=DatasetOutput(folder / "i"), sequences=DatasetOutput(folder / "s"))
    for output in (outputs.items, outputs.sequences):
        output.prepare()
    inputs = Inputs(catalog=Source(str(items)), interactions=Source(str(log)))
    run(job(config, inputs, outputs, Execution()))
    for output in (outputs.items, outputs.sequences):
        output.commit({})
    return Artifact.open(folder / "i").digest, Artifact.open(folder / "s").digest


@pytest.mark.case(31)
def test_every_format_and_layout_gives_the_same_artifacts(tmp_path):
    found = {}
    for layout in (one_file, many_files, hive):
        for suffix in FORMATS:
            if "CRLF" in suffix:
                continue  # its line ends are inside the titles too
            folder = tmp_path / f"{layout.__name__}{suffix}"
            paths = []
            for name, rows in (("items", ITEMS), ("log", LOG)):
                (folder / name).mkdir(parents=True)
                paths.append(layout(folder / name, rows, suffix))
            found[layout.__name__, suffix] = digests(folder, *paths, Settings(min_interactions=2))
    assert len(found) == 18 and len(set(found.values())) == 1
    table = Artifact.open(tmp_path / "hive.csv" / "i").table()
    assert table["item_id"].to_pylist() == [row["item_id"] for row in ITEMS]
    assert table["title"].to_pylist() == [row["title"] for row in ITEMS]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("suffix", FORMATS)
def test_blocks_of_any_size_hold_the_same_rows(tmp_path, suffix, size):
    reader = Reader(one_file(tmp_path, LOG, suffix), size)
    kinds = {"item_id": "id", "user_id": "id", "timestamp": "time"}
    chunks = list(reader.chunks(kinds))
    for name in kinds:
        read = [str(v) for chunk in chunks for v in chunk.columns[name].to_pylist()]
        assert read == [str(row[name]) for row in LOG]
    numbers = [number for chunk in chunks for number in chunk.numbers]
    first = {"csv": 2, "jsonl": 1, "parquet": 1}[reader.files[0].format]
    assert numbers == list(range(first, first + len(LOG)))
    assert not reader.bad.count


@pytest.mark.case(31)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_bad_csv_lines_are_named_and_the_others_read(tmp_path, size):
    lines = ["item_id,title", "1,one", "2", '3,"two', 'lines"', "", '4,"a"b', "5,five,5", '6,"",']
    path = tmp_path / "items.csv"
    path.write_text("\n".join([*lines, "7,sev\0en", "8,eight", '9,"open', "10,x", ""]))
    reader = Reader(path, size)
    chunks = list(reader.chunks({"item_id": "id", "title": "text"}))
    read = [v for chunk in chunks for v in chunk.columns["item_id"].to_pylist()]
    assert read == ["1", "3", "7", "8"]
    bad = sorted(int(text.split()[2].rstrip(":")) for text in reader.bad.first)
    assert bad == [3, 7, 8, 9, 10, 12]
    assert reader.bad.count == 6


@pytest.mark.case(32)
def test_a_description_of_ten_megabytes_is_read(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item_id,title\n1,"' + "word " * 2_000_000 + '"\n')
    (chunk,) = Reader(path, 8).chunks({"title": "text"})
    assert len(chunk.columns["title"][0].as_py()) == 10_000_000


def damaged(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    reader = Reader(path, 8)
    list(reader.chunks({"item_id": "id", "title": "text"}))
    return reader.bad.first


@pytest.mark.case(31, 34)
def test_damaged_files_are_bad_input(tmp_path):
    cases = {
        "a.parquet": as_parquet(ITEMS)[:-20],
        "b.parquet": b"",
        "c.csv.gz": gzip.compress(as_csv(ITEMS))[:-9],
        "d.jsonl.gz": b"not gzip",
        "e.csv": "item_id,title\n1,é\n".encode("latin-1"),
        "g.csv": b"item_id,title,item_id\n1,x,2\n",
    }
    for name, content in cases.items():
        (reason, *_) = damaged(tmp_path / name, content)
        assert name in reason, reason


@pytest.mark.case(33, 34)
def test_text_that_is_not_utf8_in_parquet_is_bad_input(tmp_path):
    broken = pa.array([b"a", b"\xff"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"item_id": ["1", "2"], "title": broken}), tmp_path / "i.parquet")
    reader = Reader(tmp_path / "i.parquet", 8)
    list(reader.chunks({"item_id": "id", "title": "text"}))
    assert "UTF8" in reader.bad.first[0]


@pytest.mark.case(34)
@pytest.mark.parametrize(
    ("column", "kind"),
    [([1.0], "id"), ([True], "id"), ([["a"]], "id"), ([{"a": 1}], "text"), ([["a"]], "time")],
)
def test_wrong_types_in_parquet_are_named(tmp_path, column, kind):
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    reader = Reader(tmp_path / "a.parquet", 8)
    list(reader.chunks({"x": kind}))
    assert reader.wrong_types["x"].startswith("a.parquet: column 'x' is ")
    assert not reader.has("x")


@pytest.mark.case(34)
def test_wrong_types_come_with_the_setting(tmp_path):
    rows = [{"item_id": 1.5, "title": "x"}, {"item_id": 2.5, "title": "x"}]
    items = one_file(tmp_path, rows, ".parquet")
    (problem,) = validate(Settings(), items, one_file(tmp_path, LOG, ".csv")).problems
    assert "column 'item_id' is double, which item_id_column cannot be" in problem


def test_a_file_that_lacks_a_column_is_named(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/a.csv").write_bytes(as_csv(LOG))
    (tmp_path / "log/b.csv").write_text("user_id,item_id\n00,000\n")
    found = validate(
        Settings(min_interactions=2), one_file(tmp_path, ITEMS, ".jsonl"), tmp_path / "log"
    )
    assert any("1 of 2 files have no column 'timestamp'" in p for p in found.problems)


def test_sources_that_are_none(tmp_path):
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.csv").touch()
    (tmp_path / "mixed/b.parquet").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").touch()
    cases = {
        "absent": "no such file",
        "mixed": "several formats (csv: mixed/a.csv, parquet: mixed/b.parquet)",
        "pictures": "1 of 1 files cannot be read as data: pictures/a.jpg has no known suffix",
        "pictures/a.jpg": "1 of 1 files cannot be read as data: a.jpg has no known suffix",
    }
    for name, message in cases.items():
        with pytest.raises(UserError) as caught:
            find_files(tmp_path / name)
        assert message in str(caught.value)


def test_the_converter_keeps_all_items_and_the_order(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "X.inter.json").write_text('{"7": [2, 0, 2, 1], "3": [1, 0, 2]}')
    texts = [("Bolt", "."), ("Nut", ""), ("Saw", "Cuts.")]
    records = {
        str(k): {"title": t, "description": d, "asin": f"A{k}"} for k, (t, d) in enumerate(texts)
    }
    records["1"]["image"] = "nut.jpg"
    (source / "X.item.json").write_text(json.dumps({**records, "3": {"title": "New"}}))
    np.save(source / "X.emb-clip-text.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    index = {str(k): [f"<a_{k}>", "<b_255>"] for k in range(4)}
    (source / "X.index_lemb.json").write_text(json.dumps(index))
    rows = convert(source, tmp_path / "out")
    assert rows == {"items": 4, "interactions": 7, "text_embeddings": 4, "semantic_ids": 4}
    items = pq.read_table(tmp_path / "out/items.parquet").to_pydict()
    assert items["item_id"] == ["0", "1", "2", "3"]
    assert items["description"] == [None, None, "Cuts.", None]
    assert items["image"] == [None, "nut.jpg", None, None]
    log = pq.read_table(tmp_path / "out/interactions.parquet").to_pydict()
    assert log == {"user_id": ["7"] * 4 + ["3"] * 3, "item_id": list("2021102")}
    vectors = pq.read_table(tmp_path / "out/text_embeddings.parquet").to_pydict()
    assert vectors["embedding"][3] == [6.0, 7.0]
    codes = pq.read_table(tmp_path / "out/semantic_ids.parquet").to_pydict()
    assert codes["text_codes"][3] == [3, 255]
    config = Settings(timestamp_column="", min_interactions=0)
    assert digests(
        tmp_path, tmp_path / "out/items.parquet", tmp_path / "out/interactions.parquet", config
    )
    sequences = Artifact.open(tmp_path / "s").table().to_pylist()
    assert [row["item_index"] for row in sequences] == [[2, 0, 2, 1], [1, 0, 2]]


def test_the_converter_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.inter\.json"):
        convert(tmp_path, tmp_path / "out")
    (tmp_path / "X.inter.json").write_text('{"a": [0, 2]}')
    with pytest.raises(UserError, match="not numbered 0 to 1"):
        convert(tmp_path, tmp_path / "out")
