"""Lists of ids in every format that is read, and what is refused."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.recommend.id_lists import read_ids
from macrec.core.artifact import Source
from macrec.core.errors import UserError


def read(path):
    return read_ids(Source(str(path)), "user_id").to_pylist()


TEXTS = {
    "plain.txt": ("7\nNA\n\n007\n7\n", ["7", "NA", "007"]),
    "windows.txt": ("\ufeffa\r\nb, c\r\n", ["a", "b, c"]),
    "table.csv": ('x,user_id\n1,007\n2,"b, c"\n3,\n', ["007", "b, c"]),
    "one.csv": ("\ufeffuser_id\nNA\n12345678901234567890123\n", ["NA", "12345678901234567890123"]),
    "rows.jsonl": ('{"user_id": 7, "x": 1}\n{"user_id": "007"}\n{"user_id": null}\n', ["7", "007"]),
    "bare.ndjson": ('"a"\n12\n\n', ["a", "12"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name):
    content, ids = TEXTS[name]
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read(tmp_path / name) == ids
    with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
        file.write(content.encode())
    assert read(tmp_path / f"{name}.gz") == ids


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["7", "007", None, "7"]),
        pa.array(["7", "007"], pa.large_string()),
        pa.array(["7", "007"]).dictionary_encode(),
    ],
)
def test_parquet_of_texts(tmp_path, column):
    pq.write_table(pa.table({"x": range(len(column)), "user_id": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["7", "007"]


def test_parquet_of_numbers_and_a_folder_of_parts(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for part, values in enumerate(([3, 2**60], [3, 5])):
        pq.write_table(pa.table({"user_id": values}), folder / f"part-{part}.parquet")
    (folder / "_SUCCESS").write_text("")
    assert read(folder) == ["3", str(2**60), "5"]


def parquet(**columns):
    return lambda path: pq.write_table(pa.table(columns), path)


def text(content):
    return lambda path: path.write_bytes(content)


REFUSED = [
    ("a.parquet", parquet(user=["a"]), "no column 'user_id'; it has user. Write a .txt"),
    ("a.parquet", parquet(user_id=[1.0]), "column 'user_id' is double. Cast it"),
    ("a.parquet", text(b"no parquet"), "a.parquet: cannot be read"),
    ("a.parquet", parquet(user_id=pa.array([b"\xff"]).view(pa.string())), "cannot be read"),
    ("a.csv", text(b"17\n18\n"), "no column 'user_id'; it has 17"),
    ("a.csv", text(b"user_id,x\n1,2,3\n"), "cannot be read"),
    ("a.csv", text(b""), "cannot be read"),
    ("a.csv", text(b"user_id\n"), "contains no user_id"),
    ("a.jsonl", text(b'"a"\n{"user": 1}\n'), "a.jsonl line 2: no key 'user_id'"),
    ("a.jsonl", text(b'"a"\n\n[1]\n'), r"line 3: \[1\] is no id"),
    ("a.jsonl", text(b"true\n"), "line 1: true is no id"),
    ("a.jsonl", text(b"a\n"), "line 1: no JSON"),
    ("a.txt", text(b"\xff\n"), "cannot be read"),
    ("a.txt.gz", text(b"plain"), "cannot be read"),
    ("a.txt", text(b"\n"), "contains no user_id. Correct it, or omit"),
    ("a.xlsx", text(b"x"), "must end in .parquet, .csv"),
]


@pytest.mark.parametrize(("name", "write", "message"), REFUSED)
def test_what_cannot_be_read_is_said(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="contains no user_id"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.txt")
