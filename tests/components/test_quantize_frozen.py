"""quantizer_mode=frozen: the quantizer is handed on, and old items keep what their IDs rest on."""

from dataclasses import replace

import numpy as np
import pytest

from components.quantize import spec
from macrec.core.artifact import Artifact, Source
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import codes_column, codes_matrix, embedding_matrix
from tests.artifacts import dataset
from tests.planted import SMALL, make_inputs, planted, run

pytestmark = pytest.mark.usefixtures("one_thread")
FROZEN = replace(SMALL, mode="frozen")


def semantic_ids(path, latents, names):
    """IDs as if no code had collided."""
    codes = [codes_column(codes_matrix(latents, f"{m}_codes")) for m in ("text", "image")]
    index, unmoved = np.arange(len(names), dtype=np.int32), [-1] * len(names)
    return dataset(path, schema.SEMANTIC_IDS, [index, names, *codes, unmoved, unmoved])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A trained quantizer, and a later catalogue of the same items."""
    path = tmp_path_factory.mktemp("frozen")
    inputs = make_inputs(path / "in", planted())
    done = run(path / "v1", inputs)
    names = inputs.history_embeddings.table(["item_id"]).column(0).to_pylist()
    ids = semantic_ids(path / "ids", done.latents, names)
    given = {
        "previous_quantizer": Source(str(done.folder)),
        "previous_latents": Source(str(done.latents.path)),
        "previous_semantic_ids": Source(str(ids.path)),
    }
    return done, replace(inputs, **given)


def test_unchanged_items_keep_latents_and_codes_and_the_quantizer_its_bytes(tmp_path, earlier):
    before, inputs = earlier
    after = run(tmp_path, inputs, FROZEN)
    for modality in ("text", "image"):
        codes = [codes_matrix(d.latents, f"{modality}_codes") for d in (before, after)]
        np.testing.assert_array_equal(*codes)
        latents = [embedding_matrix(d.latents, f"{modality}_latent") for d in (before, after)]
        np.testing.assert_allclose(*latents, atol=1e-5)
        assert after.metrics[f"{modality}_changed"] == 0
    assert Artifact.open(after.folder).digest == Artifact.open(before.folder).digest
    assert after.latents.metadata == {"frozen": True} and before.latents.metadata == {}
    assert after.metrics["text_perplexity_0"] == before.metrics["text_perplexity_0"]


def test_another_encoder_is_noticed(tmp_path, earlier):
    catalogue = planted()
    for data in catalogue.values():
        data.embedding_NE.copy_(data.embedding_NE.flip(0))
    _, inputs = earlier
    previous = {n: v for n, v in vars(inputs).items() if n.startswith("previous")}
    other = replace(make_inputs(tmp_path / "in", catalogue), **previous)
    with pytest.raises(UserError, match=r"old items would get other text codes.*mode=retrain"):
        run(tmp_path / "out", other, FROZEN)


def test_an_earlier_run_is_read_only_by_a_frozen_quantizer(tmp_path, earlier):
    _, inputs = earlier
    assert spec.used_inputs(FROZEN, inputs) == inputs
    used = vars(spec.used_inputs(SMALL, inputs))
    assert not any(used[name] for name in used if name.startswith("previous"))
    with pytest.raises(UserError, match="frozen needs previous_latents"):
        run(tmp_path, replace(inputs, previous_latents=None), FROZEN)
