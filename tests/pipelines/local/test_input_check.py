"""`macrec validate` checks everything that it accepts, and `macrec run` refuses the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.run_form import ENCODE
from macrec.core.errors import UserError
from pipelines.local import input_check
from tests.pipelines.conftest import SMOKE


@pytest.fixture
def data(sample, tmp_path):
    shutil.copytree(sample.data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def catalogue(data):
    return [
        *("--items", data / "items.parquet"),
        *("--interactions", data / "interactions.parquet"),
    ]


def edit_images(data: Path, change) -> None:
    table = pq.read_table(data / "items.parquet")
    images = [change(k, image) for k, image in enumerate(table["image"].to_pylist())]
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, "image", pa.array(images)), data / "items.parquet")


def rename_column(data: Path, name: str) -> None:
    table = pq.read_table(data / "items.parquet")
    names = [name if column == "image" else column for column in table.column_names]
    pq.write_table(table.rename_columns(names), data / "items.parquet")


def run_both(here, tmp_path, flags):
    """How `validate` and `run` end; a run that is refused leaves no output folder."""
    checked = here("validate", *flags)
    run = here("run", "--config", SMOKE, "--out", tmp_path / "out", *flags)
    assert (checked.code, run.code) == (2, 2), checked.err + run.err
    assert not (tmp_path / "out").exists()
    return checked.err, run.err


def assert_parts(messages, parts):
    for message in messages:
        assert "Traceback" not in message
        for part in parts:
            assert part in message, message


def test_everything_that_is_given_is_checked(here, sample, catalogue):
    called = here(
        *("validate", *catalogue, "--images", sample.data / "images"),
        *("--encoder-text", sample.text_model, "--encoder-image", sample.image_model),
    )
    assert called.code == 0, called.err
    assert "57 of 57 (100.0%)" in called.out and "no problems" in called.out


def test_catalogue_and_log_are_enough(here, catalogue):
    called = here("validate", *catalogue)
    assert called.code == 0 and "pictures" not in called.out


def test_one_list_of_all_problems(here, catalogue, tmp_path):
    """The example of issue 27."""
    np.save(tmp_path / "e.npy", np.ones((60, 4)))
    called = here(
        *("validate", *catalogue, "--images", tmp_path / "no-images"),
        *("--encoder-text", tmp_path / "no-model", "--vectors-text", tmp_path / "e.npy"),
        *("--set", "prepare_data.unknown_items=drop"),
    )
    assert called.code == 2
    parts = [
        f"catalog_images={tmp_path / 'no-images'}: no such file or folder",
        f"encoder_text={tmp_path / 'no-model'}: no such file or folder",
        "give encoder_text or vectors_text, not both",
        f"vectors_text={tmp_path / 'e.npy'}",
        "Parquet",
    ]
    assert_parts([called.err], parts)


def test_problems_of_the_data_are_in_the_same_list(here, data, catalogue, tmp_path):
    table = pq.read_table(data / "items.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), data / "items.parquet")
    called = here("validate", *catalogue, "--encoder-image", tmp_path / "no-model")
    assert called.code == 2
    assert_parts([called.err], ["item-0000", "no-model", "encoder_image needs catalog_images"])


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        ("img", ["'image' (prepare_data.image_column)", "set prepare_data.image_column=img"]),
        ("cover", ["set prepare_data.image_column=cover"]),  # found by its values
    ],
)
def test_images_without_their_column(here, sample, data, tmp_path, column, parts):
    rename_column(data, column)
    flags = [str(f).replace(str(sample.data), str(data)) for f in sample.flags]
    assert_parts(run_both(here, tmp_path, flags), parts)
    fixed = here("validate", *flags, "--set", f"prepare_data.image_column={column}")
    assert fixed.code == 0, fixed.err


def test_images_without_any_such_column(here, sample, data, catalogue, tmp_path):
    table = pq.read_table(data / "items.parquet").drop_columns(["image"])
    pq.write_table(table, data / "items.parquet")
    flags = [*catalogue, "--images", data / "images", "--encoder-text", sample.text_model]
    parts = ["no item has a picture", "description, item_id, title", "leave out catalog_images"]
    assert_parts(run_both(here, tmp_path, flags), parts)
    empty = here("validate", *flags, "--set", "prepare_data.image_column=")
    assert empty.code == 2 and 'prepare_data.image_column is ""' in empty.err


def test_pictures_in_another_case(here, sample, data, tmp_path):
    """The kind of issue 27: 34 of 40 paths differ in case."""
    edit_images(data, lambda k, image: image and (image.upper() if k < 34 else image))
    flags = [str(f).replace(str(sample.data), str(data)) for f in sample.flags]
    parts = [" of 57 pictures are not found", "another case", "max_missing_images=0.1 allows 5"]
    assert_parts(run_both(here, tmp_path, flags), parts)
    allowed = here("validate", *flags, "--set", "embed_image.max_missing_images=0.9")
    assert allowed.code == 0 and "warning: images:" in allowed.out


def test_the_limit_holds_for_the_items_that_remain(sample, data):
    """Pictures of items that the filters drop are often never downloaded."""
    table = pq.read_table(data / "items.parquet")
    new = {name: [f"x{k}" for k in range(60)] for name in table.column_names}
    new["image"] = [f"x{k}.jpg" for k in range(60)]
    more = pa.concat_tables([table, pa.table(new).cast(table.schema)])
    pq.write_table(more, data / "items.parquet")
    values = {
        "catalog_items": str(data / "items.parquet"),
        "catalog_interactions": str(data / "interactions.parquet"),
        "catalog_images": str(data / "images"),
        "encoder_image": str(sample.image_model),
    }
    input_check.check_run_input(values)
    with pytest.raises(UserError, match="60 of 119 pictures are not found"):
        input_check.check_run_input({**values, "run_previous": str(data)}, ENCODE)


def test_broken_models(here, sample, catalogue, tmp_path):
    for name, model in (("text", sample.text_model), ("image", sample.image_model)):
        shutil.copytree(model, tmp_path / name)
        weights = tmp_path / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    flags = [
        *(*catalogue, "--images", sample.data / "images"),
        *("--encoder-text", tmp_path / "text", "--encoder-image", tmp_path / "image"),
    ]
    parts = [f"encoder_text={tmp_path / 'text'}: model.safetensors", "encoder_image=", "Copy it"]
    assert_parts(run_both(here, tmp_path, flags), parts)


def test_models_that_transformers_cannot_open(here, sample, catalogue, tmp_path):
    shutil.copytree(sample.text_model, tmp_path / "text")
    config = tmp_path / "text" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "own"}))
    called = here("validate", *catalogue, "--encoder-text", tmp_path / "text")
    assert called.code == 2 and "encoder_text=" in called.err
    assert "cannot be opened as a transformers encoder" in called.err


def write_vectors(path: Path, ids, vectors) -> Path:
    pq.write_table(pa.table({"item_id": ids, "embedding": vectors}), path)
    return path


def test_vectors_that_fit(here, sample, catalogue, tmp_path):
    ids = pq.read_table(sample.data / "items.parquet")["item_id"].to_pylist()
    vectors = write_vectors(tmp_path / "v.parquet", ids[:30], [[1.0, 2.0, 3.0]] * 30)
    called = here("validate", *catalogue, "--vectors-text", vectors)
    assert called.code == 0, called.err
    assert "vectors_text: " in called.out and "3 components" in called.out


def test_vectors_of_other_items(here, catalogue, tmp_path):
    vectors = write_vectors(tmp_path / "v.parquet", ["a", "b"], [[1.0], [2.0]])
    flags = [*catalogue, "--vectors-text", vectors]
    messages = run_both(here, tmp_path, flags)
    assert_parts(messages, ["none of an item of the catalogue", "item-0000", "a, b"])


def test_vectors_that_are_not_finite_name_the_shops_id(here, sample, catalogue, tmp_path):
    ids = pq.read_table(sample.data / "items.parquet")["item_id"].to_pylist()
    rows = [[1.0, 2.0]] * 59 + [[1.0, float("nan")]]
    used = pq.read_table(sample.data / "interactions.parquet")["item_id"].value_counts()
    common = max(used.to_pylist(), key=lambda row: row["counts"])["values"]
    ids = [item for item in ids if item != common] + [common]
    flags = [*catalogue, "--vectors-text", write_vectors(tmp_path / "v.parquet", ids, rows)]
    assert_parts(run_both(here, tmp_path, flags), [f"{common} (not_finite)", "set them to null"])
