"""The whole DAG on text alone and on pictures alone."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from macrec.core.artifact import Artifact
from macrec.generator.model import load_recommender
from tests.pipelines.conftest import SMOKE

SMALL = ["--set", "embed_image.max_bad_images=0.05"]  # 1 of 60 pictures is broken


def catalogue(sample):
    return [
        *("--items", sample.data / "items.parquet"),
        *("--interactions", sample.data / "interactions.parquet"),
    ]


def columns_of(run, stage, name, columns):
    return Artifact.open(run / stage / name).verify().table(columns).to_pydict()


def check_run(called, out, present, absent):
    """Exit code, artifacts and reports of a run in which no item has codes of `absent`."""
    assert called.code == 0, called.err
    assert f"no item has {absent} codes" in called.err
    tasks = called.err.partition("which leaves out")[2].partition("\n")[0]
    assert f"seq_{absent}_{present}" in tasks and f"seq_{present}_{present}" not in tasks
    run = next((out / "runs").iterdir())
    codes = columns_of(run, "resolve-collisions", "semantic_ids", ["text_codes", "image_codes"])
    assert set(codes[f"{absent}_codes"]) == {None}
    coded = [tuple(code) for code in codes[f"{present}_codes"]]
    assert len(coded) == len(set(coded)) >= 50
    assert load_recommender(run / "train" / "recommender").modalities == (present,)
    predictions = columns_of(run, "evaluate", "predictions", ["system"])
    assert set(predictions["system"]) == {present, "neighbours", "hybrid"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"{present}_ndcg_10" in metrics["evaluate"]
    assert not [name for name in metrics["evaluate"] if name.startswith((absent, "fus"))]
    assert f"{present} only" in called.out and f"{present} codes: collisions" in called.out
    assert f"{absent} only" not in called.out and f"{absent} codes" not in called.out
    assert "fused" not in called.out
    for name in ("report.html", "summary.md"):
        shown = (out / name).read_text()
        assert f"No item has {absent} codes" in shown and "Fused" not in shown
    return run


def test_text_alone(macrec, sample, small_run, tmp_path):
    small_run.copy_results(tmp_path / "store", "prepare_data", "embed_text")
    called = macrec(
        *("run", "--config", SMOKE, "--out", tmp_path, *catalogue(sample)),
        *("--encoder-text", sample.text_model),
    )
    run = check_run(called, tmp_path, "text", "image")
    assert "no image vectors, because no encoder_image or vectors_image" in called.err
    status = columns_of(run, "embed-image", "image_embeddings", ["status"])["status"]
    assert set(status) == {"missing"}
    labels = columns_of(run, "pseudo-label", "pseudo_labels", ["text_label", "image_label"])
    assert set(labels["image_label"]) == {None} and None not in labels["text_label"]


@pytest.mark.slow
def test_text_codes_alone_beside_pictures(macrec, sample, small_run, tmp_path):
    """The pictures have vectors, which the quantizer is told to leave out."""
    small_run.copy_results(tmp_path / "store", "prepare_data", "embed_text", "embed_image")
    called = macrec(
        *("run", "--config", SMOKE, "--out", tmp_path, *sample.flags, *SMALL),
        *("--set", "quantize.modalities=text"),
    )
    run = check_run(called, tmp_path, "text", "image")
    status = columns_of(run, "embed-image", "image_embeddings", ["status"])["status"]
    assert "ok" in status
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_pictures_alone(macrec, sample, tmp_path):
    """Every item needs a picture: items that name none are dropped, broken files are mended."""
    images = tmp_path / "images"
    shutil.copytree(sample.data / "images", images)
    table = pq.read_table(sample.data / "items.parquet", columns=["item_id", "image"])
    files = dict(zip(*table.to_pydict().values(), strict=True))
    broken = json.loads((sample.data / "sample.json").read_text())["broken_pictures"]
    for item in broken:
        shutil.copy(
            images / next(f for i, f in files.items() if f and i not in broken),
            images / files[item],
        )
    called = macrec(
        *("run", "--config", SMOKE, "--out", tmp_path / "out", *catalogue(sample)),
        *("--images", images, "--encoder-image", sample.image_model),
        *("--set", "prepare_data.missing_image=drop"),
    )
    check_run(called, tmp_path / "out", "image", "text")


@pytest.mark.parametrize("arguments", [[], ["--set", "quantize.modalities=image"]])
def test_a_run_without_any_vectors_is_refused(macrec, sample, tmp_path, arguments):
    called = macrec("run", "--out", tmp_path / "out", *catalogue(sample), *arguments)
    assert called.code == 2 and "no vectors to quantize" in called.err
    assert not (tmp_path / "out").exists()
