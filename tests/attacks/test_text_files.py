"""Hostile CSV and JSON lines: read by type, every bad line by its number, in bounded memory."""

import gzip
import json
import time
from pathlib import Path

import pytest

from components.embed_text.text_encoder import CHARACTERS_PER_TOKEN, TextEncoder
from components.prepare_data.readers import Reader
from components.prepare_data.spec import Settings
from components.prepare_data.validation import validate
from macrec.core.artifact import Artifact, Source
from macrec.core.errors import UserError
from tests.attacks.limited import MIB, run_stage

KINDS = {"item_id": "id", "title": "text"}
LARGEST = 950 * MIB


def read(path: Path) -> tuple[list[tuple[str | None, str | None]], list[str]]:
    """(id, title) of every row, and what is wrong with the others."""
    reader = Reader(path, 100)
    columns = [chunk.columns for chunk in reader.chunks(KINDS)]
    rows = [row for c in columns for row in zip(*(c[n].to_pylist() for n in KINDS), strict=True)]
    return rows, reader.bad.first


def bad_lines(problems: list[str]) -> list[int]:
    return sorted(int(text.split(" line ")[1].split(":")[0]) for text in problems)


@pytest.mark.case(31)
def test_what_looks_like_a_number_or_a_null_stays_the_text_it_is(tmp_path):
    cells = ["00123", "NA", "null", "1e5", "0x10", " x ", "-0", "TRUE", "NaN", "1_000", "٣"]
    (tmp_path / "a.csv").write_text("item_id,title\n" + "".join(f"{c},{c}\n" for c in cells))
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"item_id": c, "title": c}) + "\n" for c in cells)
    )
    for name in ("a.csv", "a.jsonl"):
        assert read(tmp_path / name) == ([(c, c) for c in cells], [])


CSV = [
    ("item_id,title", True),
    ("1,one", True),
    ("2", False),  # too few
    ("3,x,y", False),  # too many
    ('4,"a"b', False),  # text behind a quote
    ("5,se\0ven", False),
    ("6,caf\udce9", False),  # one byte of Latin-1
    ("7,fine", True),
    ('8,"a\rb"', True),
]


@pytest.mark.case(31)
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_every_bad_line_of_a_csv_is_named_and_the_others_read(tmp_path, start):
    text = start + "\n".join(line for line, _ in CSV) + "\n"
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    rows, problems = read(tmp_path / "a.csv")
    assert bad_lines(problems) == [n for n, (_, good) in enumerate(CSV, 1) if not good]
    # A cell that cannot be read is null: the run ends because of it, it is never taken as it is.
    assert [row for row in rows if None not in row] == [
        ("1", "one"), ("7", "fine"), ("8", "a\rb"),
    ]  # fmt: skip


JSONL = [
    ('{"item_id": "1", "title": "one"}', True),
    ('{"item_id": "2", "item_id": "3"}', False),  # which of the two?
    ("[" * 50_000, False),
    ('{"item_id": "4", "title": ' + '{"a":' * 50_000, False),
    ('{"item_id": 5.0, "title": "x"}', False),  # 5 or 5.0?
    ('{"item_id": ' + "9" * 5_000 + "}", False),  # slow to convert: refused
    ('{"item_id": true, "title": "x"}', False),
    ('{"item_id": "\\ud800", "title": "x"}', False),
    ('{"item_id": "8", "title": ["a", 1]}', False),
    ('{"item_id": "9"', False),
    ("null", False),
    ('{"item_id": "12", "title": "x"} {}', False),
    ('{"item_id": 13, "title": 1e999}', True),
]


@pytest.mark.case(31)
@pytest.mark.parametrize("together", [True, False])
def test_every_bad_line_of_json_lines_is_named_and_the_others_read(tmp_path, together):
    found: list[int] = []
    if together:
        (tmp_path / "a.jsonl").write_text("".join(line + "\n" for line, _ in JSONL))
        reader = Reader(tmp_path / "a.jsonl", 4)
        list(reader.chunks(KINDS))
        assert reader.bad.count == len(JSONL) - 2
        return
    for number, (line, _) in enumerate(JSONL, 1):
        (tmp_path / "a.jsonl").write_text(line + "\n")
        try:
            is_bad = bool(read(tmp_path / "a.jsonl")[1])
        except UserError as error:  # the whole file is one JSON array
            is_bad = "a.jsonl is a JSON array" in str(error)
        if is_bad:
            found.append(number)
    assert found == [n for n, (_, good) in enumerate(JSONL, 1) if not good]


@pytest.mark.case(31)
def test_a_time_beyond_all_numbers_is_no_time(tmp_path):
    items = [{"item_id": n, "title": "x"} for n in "abc"]
    log = [{"user_id": "u", "item_id": n, "timestamp": 1_500_000_000} for n in "abc"]
    lines = [json.dumps(row) for row in log]
    lines += [line.replace("1500000000", bad) for line in lines[:1] for bad in (
        "1e999", "-1e999", "NaN", "9" * 400, "1e18", '"1e400"', '"9999-99-99"',
    )]  # fmt: skip
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    (tmp_path / "log.jsonl").write_text("".join(line + "\n" for line in lines))
    found = validate(Settings(min_interactions=0), tmp_path / "items.jsonl", tmp_path / "log.jsonl")
    absent, wrong = [p for p in found.problems if "no time" in p]
    assert "1 of 10 rows" in absent and "line 6" in absent  # NaN is null
    assert "5 of 10 values" in wrong and "line 4" in wrong and "line 10" in wrong


@pytest.mark.case(31)
@pytest.mark.parametrize(
    ("name", "ci"), [("items.jsonl.gz", 250), ("items.csv.gz", 250), ("many.jsonl.gz", 120)]
)
def test_gigabytes_in_a_small_gzip_are_not_held(tmp_path, sized, name, ci):
    """One line of them, or lines of a megabyte; a few hundred kilobytes of file."""
    size = sized(ci, 4_000) * MIB
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"item_id,title\na," if "csv" in name else b'{"item_id": "a", "title": "')
        for k in range(size // MIB):
            file.write(b"x" * MIB)
            if name.startswith("many"):
                file.write(b'"}\n{"item_id": "%d", "title": "' % k)
        file.write(b"\n" if "csv" in name else b'"}\n')
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u,{k},{1_500_000_000 + k}\n" for k in range(5))
    )
    ended = run_stage(
        "prepare_data",
        tmp_path,
        *("--catalog", path, "--interactions", tmp_path / "log.csv"),
        *("--out", tmp_path / "out", "--set=min_interactions=0"),
    )
    assert path.stat().st_size < size // 200
    assert ended.peak < LARGEST, f"{ended.peak / MIB:.0f} MiB"
    if name.startswith("many"):
        assert ended.code == 0, ended.log
        assert Artifact.open(tmp_path / "out" / "items").rows == size // MIB + 1
    else:
        assert ended.code == 2 and "Traceback" not in ended.log, ended.log
        assert ": more than 33,554,431 characters" in ended.log


def seconds_to_read(folder: Path, size: int) -> float:
    """Time of the processor to check a catalogue with a description of so many bytes."""
    rows = [{"item_id": n, "title": n, "description": "word " * (size // 5)} for n in "abc"]
    log = [{"user_id": "u", "item_id": n, "timestamp": 1_500_000_000} for n in "abc"]
    for name, content in (("items", rows), ("log", log)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    started = time.process_time()
    found = validate(Settings(min_interactions=0), folder / "items.jsonl", folder / "log.jsonl")
    assert found.problems == []
    return time.process_time() - started


@pytest.mark.case(32)
def test_the_time_to_read_a_long_description_is_linear(tmp_path):
    small = min(seconds_to_read(tmp_path, 300_000) for _ in range(3))
    large = min(seconds_to_read(tmp_path, 3_000_000) for _ in range(2))
    assert large < 30 * small, (small, large)  # 100 if it were quadratic


@pytest.mark.case(32)
def test_very_long_texts_are_cut_and_counted_and_cost_what_a_page_does(encoders):
    encoder = TextEncoder(Source(str(encoders.text)), max_tokens=32, device="cpu")
    page = "Gitarre 🎸 " * (CHARACTERS_PER_TOKEN * 32 // 10)
    times = {}
    for name, text in {
        "page": page,
        "10 MB": page * 5_000,
        "200,000 tokens": "a " * 200_000,
    }.items():
        started = time.process_time()
        vectors = encoder.encode([text, "", " \n"])
        times[name] = time.process_time() - started
        assert vectors.status.tolist() == ["ok", "missing", "missing"]
    assert encoder.truncated == 3 and encoder.tokens < 3 * 40
    assert max(times.values()) < 20 * times["page"] + 0.2, times
