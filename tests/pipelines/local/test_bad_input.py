"""Bad input: a clear message and exit code 2, or the stated policy, before a model loads."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.conftest import SMOKE


def edit_items(change):
    def apply(data: Path):
        table = pq.read_table(data / "items.parquet")
        pq.write_table(change(table), data / "items.parquet")

    return apply


def edit_log(change):
    def apply(data: Path):
        table = pq.read_table(data / "interactions.parquet")
        pq.write_table(change(table), data / "interactions.parquet")

    return apply


def set_image(value: str):
    def change(table: pa.Table) -> pa.Table:
        images = table["image"].to_pylist()
        images[3] = value
        return table.set_column(table.schema.get_field_index("image"), "image", pa.array(images))

    return edit_items(change)


def unknown_items(table: pa.Table) -> pa.Table:
    ids = table["item_id"].to_pylist()
    ids[:50] = [f"ghost-{k}" for k in range(50)]
    return table.set_column(table.schema.get_field_index("item_id"), "item_id", pa.array(ids))


REFUSED = {
    "empty catalogue": (edit_items(lambda t: t.slice(0, 0)), ["items.parquet", "holds no rows"]),
    "empty log": (edit_log(lambda t: t.slice(0, 0)), ["interactions.parquet", "holds no rows"]),
    "unknown column": (
        edit_items(lambda t: t.rename_columns(["itemid", *t.column_names[1:]])),
        ["no column 'item_id'", "nearest is 'itemid'", "prepare_data.item_id_column=itemid"],
    ),
    "duplicate id": (
        edit_items(lambda t: pa.concat_tables([t, t.slice(0, 1)])),
        ["items.parquet", "item-0000", "1 "],
    ),
    "unknown item": (edit_log(unknown_items), ["interactions.parquet", "ghost-0", "unknown_items"]),
    "path leaves its root": (set_image("../../etc/passwd"), ["items.parquet", "../../etc/passwd"]),
    "not Parquet": (
        lambda data: (data / "items.parquet").write_bytes(b"no parquet at all"),
        ["items.parquet"],
    ),
}


@pytest.fixture
def data(sample, tmp_path):
    shutil.copytree(sample.data, tmp_path / "data")
    return tmp_path / "data"


def flags(sample, data):
    return [str(f).replace(str(sample.data), str(data)) for f in sample.flags]


@pytest.mark.case(28, 29, 24, 27)
@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_ends_the_run_with_a_clear_message(macrec, sample, data, tmp_path, case):
    damage, parts = REFUSED[case]
    damage(data)
    out = tmp_path / "out"
    run = macrec("run", "--config", SMOKE, "--out", out, *flags(sample, data))
    assert run.code == 2, run.err
    assert run.seconds < 15
    assert "Traceback" not in run.err and "embed_text" not in run.err
    for part in parts:
        assert part in run.err, run.err
    checked = macrec(
        *("validate", "--items", data / "items.parquet"),
        *("--interactions", data / "interactions.parquet"),
    )
    assert checked.code == 2 and "Traceback" not in checked.err
    for part in parts:
        assert part in checked.err, checked.err


@pytest.mark.case(25)
def test_missing_and_corrupt_pictures_are_null_rows_with_a_reason(macrec, sample, data, tmp_path):
    from macrec.core.artifact import Artifact

    summary = json.loads((data / "sample.json").read_text())
    prepared = tmp_path / "prepared"
    stage = ("stage", "prepare_data", "--out", prepared, "--set", "min_interactions=0")
    done = macrec(
        *stage,
        *("--catalog", data / "items.parquet", "--interactions", data / "interactions.parquet"),
    )
    assert done.code == 0, done.err
    embed = (
        *("stage", "embed_image", "--items", prepared / "items", "--images", data / "images"),
        *("--model", sample.image_model, "--set", "size=32"),
    )
    refused = macrec(*embed, "--out", tmp_path / "refused")
    assert refused.code == 2 and summary["broken_pictures"][0] in refused.err, refused.err
    done = macrec(*embed, "--out", tmp_path / "embedded", "--set", "max_bad_images=0.05")
    assert done.code == 0, done.err
    table = Artifact.open(tmp_path / "embedded" / "image_embeddings").table()
    ids = Artifact.open(prepared / "items").table(["item_id"])["item_id"].to_pylist()
    status = dict(zip(ids, table["status"].to_pylist(), strict=True))
    null = dict(zip(ids, table["embedding"].is_null().to_pylist(), strict=True))
    assert {i for i, s in status.items() if s == "missing"} == set(summary["missing_pictures"])
    assert {i for i, s in status.items() if s == "unreadable"} == set(summary["broken_pictures"])
    assert {i for i, is_null in null.items() if is_null} == {i for i in ids if status[i] != "ok"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "quantizer_level=3"], ["Did you mean quantize.levels?"]),
        (["--set", "quantize.levels"], ["write NAME=VALUE"]),
        (["--config", "absent.yaml"], ["absent.yaml", "no such file"]),
        (
            ["--vectors-text", "x.parquet"],
            ["no such file", "encoder_text or vectors_text, not both"],
        ),
    ],
)
def test_a_bad_call_is_refused_before_anything_starts(macrec, sample, tmp_path, arguments, parts):
    run = macrec("run", "--out", tmp_path / "out", *sample.flags, *arguments)
    assert run.code == 2 and run.seconds < 10
    assert not (tmp_path / "out").exists()
    for part in parts:
        assert part in run.err, run.err


def test_an_output_beside_the_data_does_not_delete_them(macrec, data):
    (data / "items").mkdir()
    (data / "items.parquet").rename(data / "items" / "items.parquet")
    refused = macrec(
        *("stage", "prepare_data", "--out", data, "--catalog", data / "items"),
        *("--interactions", data / "interactions.parquet"),
    )
    assert refused.code == 2 and "would be emptied" in refused.err, refused.err
    assert (data / "items" / "items.parquet").is_file()


def test_help_everywhere(macrec):
    for command in ([], ["run"], ["validate"], ["stage"], ["stage", "quantize"], ["sample"]):
        called = macrec(*command, "--help")
        assert called.code == 0 and "usage:" in called.out.lower()
    assert "--pseudo-labels" in macrec("stage", "quantize", "--help").out
