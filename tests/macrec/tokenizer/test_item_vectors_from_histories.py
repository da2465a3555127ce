"""History vectors: foretold from content, mixed, kept by id, and joined to the content vectors."""

import numpy as np
import pyarrow as pa
import pytest

from macrec.core.artifact import Artifact, FolderOutput
from macrec.core.errors import UserError
from macrec.data.vectors import ItemVectors, JoinedRows, ScratchMatrix
from macrec.tokenizer.item_vectors_from_histories import (
    MAP,
    TRUST,
    VECTORS,
    fit_histories,
    load_histories,
)
from tests.planted import history_embeddings

ITEMS, DIM = 400, 3
IDS = [f"i{row}" for row in range(ITEMS)]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def planted(path, met=1000, noise=0.0):
    """Content of both modalities, of which the history vectors are a linear function."""
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(ITEMS, 6)) * 9 + 4, rng.normal(size=(ITEMS, 5))
    truth = unit(0.02 * text @ rng.normal(size=(6, DIM)) + 0.2 * image @ rng.normal(size=(5, DIM)))
    own = unit(truth + noise * rng.normal(size=truth.shape))
    met_N = np.full(ITEMS, met)
    met_N[:40] = 0  # met by nobody
    content = {
        "text": ItemVectors(text.astype(np.float32), np.ones(ITEMS, bool)),
        "image": ItemVectors(image.astype(np.float32), np.ones(ITEMS, bool)),
    }
    return content, own, truth, history_embeddings(path / "histories", own, met_N)


def cosine(one, other):
    return (unit(one) * unit(other)).sum(1)


def test_an_item_met_often_keeps_its_vector_and_one_not_met_gets_what_its_content_foretells(
    tmp_path,
):
    content, own, truth, artifact = planted(tmp_path)
    found = fit_histories(content, artifact, 1.0).vectors(content, pa.array(IDS))
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(ITEMS), abs=1e-5)
    assert cosine(found[40:], own[40:]).min() > 0.999
    assert cosine(found[:40], truth[:40]).mean() > 0.85
    shuffled = {n: ItemVectors(v.matrix_NE[::-1].copy(), v.present_N) for n, v in content.items()}
    blind = fit_histories(shuffled, artifact, 1.0).vectors(shuffled, pa.array(IDS))
    assert cosine(blind[:40], truth[:40]).mean() < 0.6  # what chance and the mean give


def test_the_regression_is_that_of_the_items_met(tmp_path):
    content, own, _, artifact = planted(tmp_path, noise=0.5)
    predictor = fit_histories(content, artifact, 1.0).predictor
    rows = np.arange(40, ITEMS)  # least squares with an intercept leave no mean residual
    np.testing.assert_allclose(predictor(content, rows).mean(0), own[rows].mean(0), atol=1e-5)


def test_an_item_met_as_often_as_trusted_gets_half_of_each(tmp_path):
    content, own, _, artifact = planted(tmp_path, met=int(TRUST), noise=0.5)
    histories = fit_histories(content, artifact, 1.0)
    rows = np.arange(40, ITEMS)
    expected = unit(own[rows].astype(np.float32) + histories.predictor(content, rows))
    found = histories.vectors(content, pa.array(IDS))[rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_known_item_keeps_its_vector_wherever_it_stands_and_whatever_its_content(tmp_path):
    content, _, _, artifact = planted(tmp_path)
    histories = fit_histories(content, artifact, 1.0)
    before = histories.vectors(content, pa.array(IDS))
    other = {n: ItemVectors(v.matrix_NE[:3] + 1, v.present_N[:3]) for n, v in content.items()}
    after = histories.vectors(other, pa.array(["i7", "i399", "new"]))
    np.testing.assert_array_equal(after[1], before[399])
    assert cosine(after[:1], before[7:8]) < 0.9999  # i7 was never met: its content decides
    np.testing.assert_allclose(
        after[2:], unit(histories.predictor(other, np.array([2]))), atol=1e-6
    )


def test_a_modality_that_an_item_lacks_stands_at_its_mean(tmp_path):
    content, _, _, artifact = planted(tmp_path)
    histories = fit_histories(content, artifact, 1.0)
    present_N = np.ones(ITEMS, bool)
    present_N[0] = False
    mean = content["image"].matrix_NE[:].copy()
    mean[0] = mean.mean(0)
    lacking = {**content, "image": ItemVectors(np.full_like(mean, np.nan), present_N)}
    lacking["image"].matrix_NE[1:] = mean[1:]
    whole = {**content, "image": ItemVectors(mean, np.ones(ITEMS, bool))}
    rows = np.array([0, 1])
    np.testing.assert_allclose(
        histories.predictor(lacking, rows), histories.predictor(whole, rows), atol=1e-3
    )


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_joined_vectors_have_content_of_length_one_and_histories_of_the_weight(
    tmp_path, on_disk, dtype
):
    content, _, _, artifact = planted(tmp_path)
    given = {}
    for name, (matrix, present_N) in content.items():
        rows = ScratchMatrix(*matrix.shape, dtype) if on_disk else np.zeros(matrix.shape, dtype)
        rows[:] = matrix[:].astype(dtype)
        given[name] = ItemVectors(rows, present_N)
    histories = fit_histories(given, artifact, 0.5)
    joined = histories.join(given, pa.array(IDS))
    expected = histories.vectors(given, pa.array(IDS))
    for name, (matrix, present_N) in joined.items():
        dim = content[name].matrix_NE.shape[1]
        assert matrix.shape == (ITEMS, dim + DIM) and matrix.dtype == dtype
        assert isinstance(matrix, JoinedRows if on_disk else np.ndarray) and present_N.all()
        rows = matrix[np.arange(ITEMS)].astype(np.float64)
        centred = rows[:, :dim] - rows[:, :dim].mean(0)
        assert np.sqrt((centred**2).sum(1).mean()) == pytest.approx(1, abs=0.01)
        ratio = content[name].matrix_NE[:] / rows[:, :dim]
        assert ratio == pytest.approx(np.full(ratio.shape, ratio[0, 0]), rel=0.01)
        np.testing.assert_allclose(rows[:, dim:], 0.5 * expected, atol=1e-3)
        np.testing.assert_array_equal(matrix[3:7], rows[3:7].astype(dtype))


def kept(path, histories, foreign=None):
    output = FolderOutput(path)
    output.prepare()
    histories.save(output.path)
    if foreign:
        (output.path / foreign).write_bytes(b"what another program wrote")
    output.commit({})
    return Artifact.open(path)


@pytest.mark.parametrize("modalities", [("text", "image"), ("image",)])
def test_what_is_kept_gives_the_same_vectors(tmp_path, modalities):
    content, _, _, artifact = planted(tmp_path)
    content = {name: content[name] for name in modalities}
    histories = fit_histories(content, artifact, 0.7)
    loaded = load_histories(kept(tmp_path / "quantizer", histories))
    assert loaded is not None and (loaded.weight, loaded.dim) == (0.7, DIM)
    ids = pa.array(["new", *IDS[1:]])
    for name, (matrix, _) in histories.join(content, ids).items():
        np.testing.assert_array_equal(loaded.join(content, ids)[name].matrix_NE[:], matrix[:])


def test_a_quantizer_without_histories_has_none_and_a_foreign_one_says_so(tmp_path):
    output = FolderOutput(tmp_path / "plain")
    output.prepare()
    (output.path / "config.json").write_text("{}")
    output.commit({})
    assert load_histories(Artifact.open(output.path)) is None
    content, _, _, artifact = planted(tmp_path)
    for name in (MAP, VECTORS):
        folder = kept(tmp_path / name, fit_histories(content, artifact, 1.0), foreign=name)
        with pytest.raises(UserError, match=r"histories cannot be read .* run the quantize stage"):
            load_histories(folder)


def test_vectors_that_are_all_alike_are_refused(tmp_path):
    content, _, _, artifact = planted(tmp_path)
    content["image"] = ItemVectors(np.ones((ITEMS, 5), np.float32), np.ones(ITEMS, bool))
    with pytest.raises(UserError, match="image_embeddings: the 400 vectors have variance"):
        fit_histories(content, artifact, 1.0)
