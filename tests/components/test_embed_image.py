"""Picture vectors: in item order whatever fails, equal to those of transformers itself."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.embed_image import spec, stage
from components.embed_image.image_encoder import ImageEncoder
from components.embed_image.pictures import Geometry, load_picture
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import embedding_matrix
from tests.jobs import job

PIXELS = 1_000_000


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Source:
    from macrec.sample.sample_encoders import make_tiny_encoders

    return Source(str(make_tiny_encoders(tmp_path_factory.mktemp("encoders")).image))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Source:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 10},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=6,
    )
    torch.manual_seed(1)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size=size).save_pretrained(folder)
    return Source(str(folder))


def noise(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def make_items(folder: Path, uris: list[str | None]) -> Artifact:
    output = DatasetOutput(folder)
    output.prepare()
    rows = {
        "item_index": range(len(uris)),
        "item_id": [f"id{i}" for i in range(len(uris))],
        "title": [""] * len(uris),
        "text": [""] * len(uris),
        "image_uri": uris,
        "has_image": [uri is not None for uri in uris],
    }
    with output.dataset(schema.ITEMS) as writer:
        writer.write(pa.table(rows, schema=schema.ITEMS))
    output.commit({})
    return Artifact.open(folder)


def run(
    folder: Path,
    uris: list[str | None],
    model: Source | None,
    *,
    images: Path | None = None,
    given: Source | None = None,
    batch_images: int = 2,
    workers: int = 2,
    cache_uri: str = "",
    **settings: object,
) -> tuple[Artifact, dict[str, float]]:
    output = DatasetOutput(folder / "out")
    output.prepare()
    metrics = stage.run(
        job(
            spec.Settings(**settings),  # type: ignore[arg-type]
            spec.Inputs(
                items=make_items(folder / "items", uris),
                images=Source(str(images)) if images else None,
                model=model,
                embeddings=given,
            ),
            spec.Outputs(image_embeddings=output),
            spec.Execution(batch_images=batch_images, workers=workers, device="cpu"),
            cache_uri=cache_uri,
        )
    )
    output.commit({})
    return Artifact.open(folder / "out"), metrics


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 0.png to 6.png; broken.png and text.png are no pictures."""
    folder = tmp_path_factory.mktemp("shelf")
    for index in range(7):
        noise(40 + index, 40, seed=index).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.mark.case(25)
def test_failed_pictures_are_null_and_shift_nobody(
    dino: Source, shelf: Path, tmp_path: Path
) -> None:
    uris = ["0.png", "broken.png", "1.png", None, "gone.png", "2.png", "text.png", "0.png", "3.png"]
    limits = {"max_bad_images": 0.5, "max_missing_images": 0.5}
    artifact, metrics = run(tmp_path, uris, dino, images=shelf, batch_images=4, **limits)  # type: ignore[arg-type]
    table = artifact.table()
    ok = "ok"
    expected = [ok, "unreadable", ok, "missing", "absent", ok, "format", ok, ok]
    assert table["status"].to_pylist() == expected
    encoder = ImageEncoder(dino, device="cpu")
    for uri, status, vector in zip(uris, expected, table["embedding"].to_pylist(), strict=True):
        if status == ok:
            pixels = load_picture(shelf / str(uri), encoder.geometry, PIXELS)
            assert isinstance(pixels, np.ndarray)
            np.testing.assert_allclose(vector, encoder.encode([pixels])[0], atol=1e-5)
        else:
            assert vector is None
    counted = {
        k: metrics[k] for k in ("pictures", "ok", "missing", "absent", "format", "unreadable")
    }
    assert list(counted.values()) == [7, 5, 1, 1, 1, 1]
    assert metrics["pictures_found"] == 6
    assert artifact.metadata["pictures"] == {"named": 7, "found": 6}


def test_a_picture_of_several_items_is_decoded_once(
    dino: Source, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def load(path: Path, *rest: object) -> np.ndarray | str:
        decoded.append(path.name)
        return load_picture(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("components.embed_image.picture_vectors.load_picture", load)
    artifact, _ = run(tmp_path, ["1.png", "2.png", "1.png", "1.png"], dino, images=shelf)
    matrix = embedding_matrix(artifact, "embedding")
    assert sorted(decoded) == ["1.png", "2.png"]
    assert np.array_equal(matrix[0], matrix[3]) and not np.array_equal(matrix[0], matrix[1])


def test_batches_and_threads_change_nothing(dino: Source, shelf: Path, tmp_path: Path) -> None:
    uris: list[str | None] = [f"{i}.png" for i in range(7)]
    reference, _ = run(tmp_path / "a", uris, dino, images=shelf, batch_images=7, workers=1)
    other, _ = run(tmp_path / "b", uris, dino, images=shelf, batch_images=1, workers=3)
    np.testing.assert_allclose(
        embedding_matrix(other, "embedding"), embedding_matrix(reference, "embedding"), atol=1e-5
    )


def test_a_vector_is_the_same_bytes_whatever_stands_beside_it(dino: Source) -> None:
    """Rows of a shared pass were seen to differ in their last bits with two cores."""
    encoder = ImageEncoder(dino, size=32, device="cpu")
    pixels = [np.asarray(noise(32, 32, seed)) for seed in range(60)]
    reference = encoder.encode(pixels)
    some = np.random.default_rng(0).permutation(60)[:29]
    np.testing.assert_array_equal(encoder.encode([pixels[i] for i in some]), reference[some])
    np.testing.assert_array_equal(encoder.encode([pixels[7]])[0], reference[7])


def test_the_model_sees_only_what_is_not_in_the_cache(
    dino: Source, shelf: Path, tmp_path: Path
) -> None:
    uris = ["0.png", "broken.png", "1.png", None, "gone.png", "0.png", "2.png"]
    settings = {"images": shelf, "max_bad_images": 0.5, "max_missing_images": 0.5}
    cache = {"cache_uri": str(tmp_path / "cache")}
    cold, counts = run(tmp_path / "a", uris, dino, **settings, **cache)  # type: ignore[arg-type]
    assert (counts["embedded_items"], counts["cached_items"]) == (4, 0)
    again, counts = run(tmp_path / "b", uris, dino, **settings, **cache)  # type: ignore[arg-type]
    assert (counts["embedded_items"], counts["cached_items"]) == (0, 4)
    plain, _ = run(tmp_path / "c", uris, dino, **settings)  # type: ignore[arg-type]
    assert again.digest == cold.digest == plain.digest
    # The bytes count, not the name: 1.png is another picture now, 2.png has moved.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name, source in {"0": "0", "1": "5", "two": "2", "new": "6"}.items():
        (moved / f"{name}.png").write_bytes((shelf / f"{source}.png").read_bytes())
    uris = ["two.png", "1.png", "new.png", "0.png", "0.png"]
    warm, counts = run(tmp_path / "d", uris, dino, images=moved, **cache)  # type: ignore[arg-type]
    assert (counts["embedded_items"], counts["cached_items"]) == (2, 3)
    assert warm.digest == run(tmp_path / "e", uris, dino, images=moved)[0].digest


def test_parts_fill_the_cache_and_the_whole_takes_its_vectors(
    dino: Source, shelf: Path, tmp_path: Path
) -> None:
    uris = ["0.png", "gone.png", "1.png", None, "0.png", "2.png"]
    # In the first of four parts all pictures are there, in the second none is.
    cache = str(tmp_path / "cache")
    settings = {"images": shelf, "max_missing_images": 0.5}
    done = [
        run(tmp_path / str(k), uris, dino, **settings, cache_uri=cache, shard=f"{k}/4")[1]  # type: ignore[arg-type]
        for k in (1, 2, 3, 4)
    ]
    assert [counts["embedded_items"] for counts in done] == [2, 0, 1, 1]
    whole, counts = run(tmp_path / "whole", uris, dino, **settings, cache_uri=cache)  # type: ignore[arg-type]
    assert (counts["embedded_items"], counts["cached_items"]) == (0, 4)
    assert whole.digest == run(tmp_path / "alone", uris, dino, **settings)[0].digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"pooling": "mean"}, {"size": 48}, {"resize": "squash"}, {"max_pixels": 1700}]
)
def test_another_encoder_has_another_cache(
    dino: Source, shelf: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    """max_pixels too: a picture that is too large now has no vector, whatever it had before."""
    uris: list[str | None] = ["0.png", "1.png", "6.png"]
    cache = str(tmp_path / "cache")
    run(tmp_path / "a", uris, dino, images=shelf, cache_uri=cache)
    settings = {"max_bad_images": 0.5, **settings}
    other, counts = run(tmp_path / "b", uris, dino, images=shelf, cache_uri=cache, **settings)  # type: ignore[arg-type]
    assert counts["cached_items"] == 0
    assert other.digest == run(tmp_path / "c", uris, dino, images=shelf, **settings)[0].digest  # type: ignore[arg-type]


@pytest.mark.case(23)
def test_too_many_bad_pictures_fail_and_are_named(
    dino: Source, shelf: Path, tmp_path: Path
) -> None:
    uris = ["0.png", "broken.png", "1.png", "text.png"]
    with pytest.raises(
        UserError, match=r"embed_image\.max_bad_images=0\.01.*broken\.png: unreadable"
    ):
        run(tmp_path / "a", uris, dino, images=shelf)
    run(tmp_path / "b", uris, dino, images=shelf, max_bad_images=0.5)


@pytest.mark.parametrize("shard", ["", "1/4"])
def test_too_many_absent_pictures_fail_before_the_model_is_opened(
    shelf: Path, tmp_path: Path, shard: str
) -> None:
    uris = ["0.png", "1.PNG", "2.PNG", "gone.png", None]
    with pytest.raises(UserError) as refused:
        run(tmp_path / "a", uris, Source("/no-model"), images=shelf, shard=shard, cache_uri="x")
    for part in (
        "3 of 4 pictures are not found",
        "embed_image.max_missing_images=0.1 allows 0",
        "2 of them are there with another case",
    ):
        assert part in str(refused.value)


def test_absent_pictures_below_the_limit_are_logged(
    dino: Source, shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    uris: list[str | None] = ["0.png", "1.png", "2.png", "gone.png"]
    run(tmp_path, uris, dino, images=shelf, max_missing_images=0.25)
    assert "3 of 4 (75.0%)" in caplog.text and "gone.png" in caplog.text


def test_wrong_folder_and_catalogue_without_pictures(
    dino: Source, shelf: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="none of 2 pictures is in"):
        run(tmp_path / "a", ["x.png", "y.png"], dino, images=shelf)
    with pytest.raises(UserError, match=r"none of 2 items .*prepare_data\.image_column"):
        run(tmp_path / "b", [None, None], dino, images=shelf)
    with pytest.raises(UserError, match="leave the folder"):
        run(tmp_path / "c", ["0.png", "../0.png"], dino, images=shelf)


def clip_reference(source: Source, picture: Image.Image) -> dict[str, np.ndarray]:
    from transformers import CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(source.path()).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(source.path())(picture, return_tensors="pt")
    with torch.inference_mode():
        hidden = model.vision_model(**pixels).last_hidden_state
        pooled = model.get_image_features(**pixels)
    projected = pooled if isinstance(pooled, torch.Tensor) else pooled.pooler_output
    return {"cls": hidden[0, 0], "mean": hidden[0, 1:].mean(0), "pooler": projected[0]}


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_clip_folder_opens_as_its_vision_tower(clip: Source, tmp_path: Path, pooling: str) -> None:
    picture = noise(30, 50)
    picture.save(tmp_path / "a.png")
    encoder = ImageEncoder(clip, pooling=pooling, device="cpu")
    assert encoder.geometry == Geometry(16, 20, False, 3)
    pixels = load_picture(tmp_path / "a.png", encoder.geometry, PIXELS)
    assert isinstance(pixels, np.ndarray)
    expected = clip_reference(clip, picture)[pooling]
    np.testing.assert_allclose(encoder.encode([pixels])[0], expected, atol=1e-3)
    assert not any("text" in name for name, _ in encoder._model.named_parameters())


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_other_sizes_interpolate_the_positions(kind: str, request: pytest.FixtureRequest) -> None:
    encoder = ImageEncoder(request.getfixturevalue(kind), size=48, resize="squash", device="cpu")
    assert encoder.geometry == Geometry(48, 48, True, 3)
    vector = encoder.encode([np.asarray(noise(48, 48))])
    assert vector.shape == (1, encoder.dim) and np.isfinite(vector).all()


@pytest.mark.parametrize(("size", "used"), [(35, 32), (37, 40), (36, 40), (1, 8), (48, 48)])
def test_a_size_is_rounded_to_whole_patches(
    dino: Source, caplog: pytest.LogCaptureFixture, size: int, used: int
) -> None:
    caplog.set_level("INFO")
    encoder = ImageEncoder(dino, size=size, device="cpu")
    assert encoder.geometry.side == encoder.size == used
    assert (f"embed_image.size={size}" in caplog.text) == (size != used)
    assert encoder.encode([np.asarray(noise(used, used))]).shape == (1, encoder.dim)


def test_a_rounded_size_has_the_cache_of_the_size_that_is_used(
    dino: Source, shelf: Path, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    run(tmp_path / "a", ["0.png"], dino, images=shelf, cache_uri=cache, size=40)
    _, counts = run(tmp_path / "b", ["0.png"], dino, images=shelf, cache_uri=cache, size=37)
    assert counts["cached_items"] == 1


def test_poolings_that_a_model_does_not_have(dino: Source, clip: Source, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import SiglipVisionConfig, SiglipVisionModel

    folder = tmp_path / "clip"
    shutil.copytree(clip.path(), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="visual_projection"):
        ImageEncoder(Source(str(folder)), pooling="pooler", device="cpu")
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8, vision_use_head=False,
    )  # fmt: skip
    SiglipVisionModel(config).save_pretrained(tmp_path / "siglip")
    for pooling in ("cls", "pooler"):
        with pytest.raises(UserError, match=rf"embed_image\.pooling={pooling}.*pooling=mean"):
            ImageEncoder(Source(str(tmp_path / "siglip")), pooling=pooling, device="cpu")


def test_models_that_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    from macrec.sample.sample_encoders import make_tiny_encoders

    text_model = make_tiny_encoders(tmp_path_factory.mktemp("encoders")).text
    with pytest.raises(UserError, match="not a vision transformer"):
        ImageEncoder(Source(str(text_model)), device="cpu")


def test_given_vectors_instead_of_pictures(tmp_path: Path) -> None:
    file = tmp_path / "given.parquet"
    pq.write_table(pa.table({"item_id": ["id1"], "embedding": [[1.0, 2.0]]}), file)
    artifact, metrics = run(tmp_path, [None, None], None, given=Source(str(file)))
    assert artifact.table()["embedding"].to_pylist() == [None, [1.0, 2.0]]
    assert metrics["missing"] == 1


def test_settings_and_inputs_that_are_refused(dino: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_bad_images"):
        spec.Settings(max_bad_images=1.5)
    with pytest.raises(UserError, match="model needs images"):
        run(tmp_path, ["0.png"], dino)
    with pytest.raises(UserError, match="not both"):
        run(tmp_path, ["0.png"], dino, given=dino)


def test_without_a_source_every_vector_is_null(shelf: Path, tmp_path: Path) -> None:
    """Pictures without a model are there for the report alone."""
    artifact, metrics = run(tmp_path, ["0.png", None], None, images=shelf)
    assert artifact.table()["embedding"].to_pylist() == [None, None]
    assert artifact.table()["status"].to_pylist() == ["missing", "missing"]
    assert metrics == {"items": 2, "dim": 1, "ok": 0, "missing": 2}
