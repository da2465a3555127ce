"""An artifact is its manifest: nothing unfinished, cut, changed or surplus is ever read."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from macrec.core import artifact as artifacts
from macrec.core.artifact import MANIFEST, Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.data import schema


def test_rows_come_back_in_order_across_row_groups(numbers, monkeypatch):
    monkeypatch.setattr(artifacts, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(artifacts, "ROWS_PER_FILE", 6)
    opened = Artifact.open(numbers(*range(20)))
    assert opened.table()["value"].to_pylist() == list(range(20))
    assert opened.rows == 20
    assert len(opened.manifest["files"]) == 4  # 6 rows a file
    assert [len(b) for b in opened.batches(batch_size=2)][:3] == [2, 2, 2]


def test_digest_is_of_the_content_alone(numbers):
    first, same, other = numbers(1, 2), numbers(1, 2, name="b"), numbers(1, 3, name="c")
    assert Artifact.open(first).digest == Artifact.open(same).digest
    assert Artifact.open(first).digest != Artifact.open(other).digest


def _remove_manifest(path: Path):
    (path / MANIFEST).unlink()


def _cut_manifest(path: Path):
    (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes()[:-40])


def _edit_manifest(path: Path):
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][0]["rows"] = 7
    (path / MANIFEST).write_text(json.dumps(manifest))


def _cut_part(path: Path):
    part = path / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])


def _flip_bit(path: Path):
    part = path / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)


@pytest.mark.case(15)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_manifest, "not a finished artifact"),
        (_cut_manifest, "damaged"),
        (_edit_manifest, "digest does not match"),
        (_cut_part, "the manifest says"),
        (_flip_bit, "SHA-256"),
    ],
)
def test_damage_is_refused(numbers, damage, message):
    path = numbers(*range(1000))
    assert Artifact.open(path).table().num_rows == 1000
    damage(path)
    with pytest.raises(UserError, match=message):
        Artifact.open(path).table()


@pytest.mark.case(11, 15)
def test_files_the_manifest_does_not_name_are_ignored(numbers):
    path = numbers(1, 2)
    (path / "part-00001.parquet").write_bytes(b"left by an earlier attempt")
    assert Artifact.open(path).table()["value"].to_pylist() == [1, 2]


def test_a_body_that_raises_leaves_no_artifact(tmp_path):
    output = DatasetOutput(tmp_path / "x")
    output.prepare()
    with pytest.raises(RuntimeError), output.dataset(schema.PSEUDO_LABELS) as out:
        out.write(pa.table({"item_index": [0], "text_label": [1], "image_label": [None]}))
        raise RuntimeError
    with pytest.raises(UserError, match="not a finished artifact"):
        Artifact.open(tmp_path / "x")


def test_a_folder_of_the_user_is_never_emptied(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "part-00000.parquet").write_bytes(b"the only copy")
    (tmp_path / "items" / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(UserError, match="would be emptied"):
        DatasetOutput(tmp_path / "items").prepare()
    assert (tmp_path / "items" / "part-00000.parquet").read_bytes() == b"the only copy"
    assert len(list((tmp_path / "items").iterdir())) == 2


def test_a_killed_attempt_and_a_damaged_artifact_give_way(numbers, tmp_path):
    killed = DatasetOutput(tmp_path / "killed")
    killed.prepare()
    (killed.path / "part-00007.parquet").write_bytes(b"half")
    DatasetOutput(killed.path).prepare()
    assert not (killed.path / "part-00007.parquet").exists()
    finished = numbers(1, 2)
    assert not (finished / ".unfinished").exists()
    DatasetOutput(finished).prepare()
    assert not (finished / MANIFEST).exists()


def test_a_null_in_a_required_column_is_refused(tmp_path):
    output = DatasetOutput(tmp_path / "x")
    output.prepare()
    rows = pa.table({"item_index": [None], "text_label": [1], "image_label": [1]})
    with (
        pytest.raises(ValueError, match="non-nullable"),
        output.dataset(schema.PSEUDO_LABELS) as out,
    ):
        out.write(rows)


def test_an_empty_dataset_keeps_its_schema(tmp_path):
    output = DatasetOutput(tmp_path / "x")
    output.prepare()
    with output.dataset(schema.PSEUDO_LABELS):
        pass
    output.commit({})
    opened = Artifact.open(tmp_path / "x")
    assert opened.rows == 0 and opened.table().column_names == schema.PSEUDO_LABELS.names
