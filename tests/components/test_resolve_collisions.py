from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.resolve_collisions import spec, stage
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, Source
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import codes_column, codes_matrix, vector_column
from tests.artifacts import dataset
from tests.jobs import job

CODEBOOKS = {  # decoded: 00 -> 0, 01 -> 1, 10 -> 10, 11 -> 11
    "text": np.array([[[0], [10]], [[0], [1]]], np.float32),
    "image": np.array([[[0], [-10]], [[0], [-1]]], np.float32),
}


class Catalogue(NamedTuple):
    ids: list[str]
    text: list[float]
    text_codes: list[list[int]]
    image: list[float]
    image_codes: list[list[int]]


CATALOGUE = Catalogue(
    ids=["b", "a", "c", "d"],
    text=[0.2, 0.2, 10.0, 0.0],
    text_codes=[[0, 0], [0, 0], [1, 0], [-1, -1]],
    image=[0.0, -0.1, -0.6, -11.0],
    image_codes=[[0, 0], [0, 0], [0, 0], [1, 1]],
)


def make_inputs(path, catalogue, codebooks=CODEBOOKS):
    count = len(catalogue.ids)
    index = np.arange(count, dtype=np.int32)
    text = [index, catalogue.ids, catalogue.ids, catalogue.ids, [None] * count, [False] * count]
    vectors, codes = [], []
    for latents, rows in [
        (catalogue.text, catalogue.text_codes),
        (catalogue.image, catalogue.image_codes),
    ]:
        codes_NL = np.array(rows, np.int32)
        codes.append(codes_column(codes_NL))
        vectors.append(vector_column(np.array(latents)[:, None], (codes_NL >= 0).all(1)))
    quantizer = FolderOutput(path / "quantizer")
    quantizer.prepare()
    save_file(codebooks, quantizer.path / "codebooks.safetensors")
    quantizer.commit({})
    return spec.Inputs(
        items=dataset(path / "items", schema.ITEMS, text),
        latents=dataset(path / "latents", schema.latents(1, 1), [index, *vectors, *codes]),
        quantizer=Artifact.open(quantizer.path),
    )


def run(path, inputs):
    output = DatasetOutput(path / "semantic_ids")
    output.prepare()
    outputs = spec.Outputs(semantic_ids=output)
    metrics = stage.run(job(spec.Settings(), inputs, outputs, spec.Execution()))
    output.commit({})
    return Artifact.open(output.path), metrics


def test_text_and_image_are_resolved_each_by_itself(tmp_path):
    artifact, metrics = run(tmp_path, make_inputs(tmp_path, CATALOGUE))
    table = artifact.table().to_pydict()
    assert artifact.schema.equals(schema.SEMANTIC_IDS)
    assert artifact.metadata == {"codebook_size": 2}
    assert table["item_index"] == [0, 1, 2, 3]
    assert table["item_id"] == CATALOGUE.ids
    assert table["text_codes"] == [[0, 1], [0, 0], [1, 0], None]  # a tie, broken by the id
    assert table["image_codes"] == [[0, 0], [0, 1], [1, 0], [1, 1]]  # prefix 0 has room for two
    assert table["text_moved"] == [1, -1, -1, -1]
    assert table["image_moved"] == [-1, 1, 0, -1]
    assert metrics == pytest.approx(
        {
            "text_items": 3,
            "text_collision_rate_before": 1 / 3,
            "text_collision_rate_after": 0,
            "text_largest_group": 2,
            "text_moved": 1,
            "text_moved_above_last_level": 0,
            "text_mean_displacement": 1,
            "image_items": 4,
            "image_collision_rate_before": 0.5,
            "image_collision_rate_after": 0,
            "image_largest_group": 3,
            "image_moved": 2,
            "image_moved_above_last_level": 1,
            "image_mean_displacement": 5.5,
        }
    )


def test_a_catalogue_without_any_picture(tmp_path):
    catalogue = CATALOGUE._replace(
        text_codes=[[0, 0], [0, 0], [1, 0], [1, 0]], image_codes=[[-1, -1]] * 4
    )
    artifact, metrics = run(tmp_path, make_inputs(tmp_path, catalogue))
    assert codes_matrix(artifact, "image_codes").shape == (4, 0)
    assert artifact.table(["image_moved"]).column(0).to_pylist() == [-1] * 4
    assert metrics["image_items"] == metrics["image_largest_group"] == 0
    assert metrics["text_moved"] == 2


@pytest.mark.case(35)
@pytest.mark.parametrize(
    ("change", "codebooks", "message"),
    [
        ({"image_codes": [[0, 0]] * 3 + [[-1, -1]]}, {}, r"1 of 4 items .* \(first: d\)"),
        ({}, {"text": np.zeros((2, 1, 1), np.float32)}, "3 items but only 1 codes"),
        ({}, {"text": np.zeros((2, 2, 3), np.float32)}, "1 components, the codebooks 3"),
    ],
)
def test_inputs_that_cannot_be_resolved_are_refused(tmp_path, change, codebooks, message):
    inputs = make_inputs(tmp_path, CATALOGUE._replace(**change), {**CODEBOOKS, **codebooks})
    with pytest.raises(UserError, match=message):
        run(tmp_path, inputs)


def test_codes_of_a_modality_that_the_quantizer_lacks_are_refused(tmp_path):
    inputs = make_inputs(tmp_path, CATALOGUE, {"text": CODEBOOKS["text"]})
    with pytest.raises(UserError, match="holds text, but there are text and image codes"):
        run(tmp_path, inputs)


def test_a_quantizer_of_text_alone(tmp_path):
    catalogue = CATALOGUE._replace(
        text_codes=[[0, 0], [0, 0], [1, 0], [1, 0]], image_codes=[[-1, -1]] * 4
    )
    artifact, metrics = run(tmp_path, make_inputs(tmp_path, catalogue, {"text": CODEBOOKS["text"]}))
    assert artifact.table(["image_codes"]).column(0).null_count == 4
    assert artifact.metadata == {"codebook_size": 2}
    assert (metrics["image_items"], metrics["text_moved"]) == (0, 2)


def test_latents_of_another_catalogue_are_refused(tmp_path):
    inputs = make_inputs(tmp_path / "one", CATALOGUE)
    other = make_inputs(tmp_path / "other", Catalogue(*(field[:3] for field in CATALOGUE)))
    mixed = spec.Inputs(items=inputs.items, latents=other.latents, quantizer=inputs.quantizer)
    with pytest.raises(UserError, match="4 items but 3 rows of latents"):
        run(tmp_path, mixed)


# ---------------------------------------------------------------- a frozen quantizer


def frozen_inputs(path, catalogue, earlier, earlier_ids):
    """The catalogue, as quantize hands it on with the quantizer of the earlier one."""
    inputs = make_inputs(path / "now", catalogue)
    marked = DatasetOutput(path / "marked")
    marked.prepare()
    with marked.dataset(schema.latents(1, 1)) as out:
        out.write(inputs.latents.table())
    marked.metadata["frozen"] = True
    marked.commit({})
    before = make_inputs(path / "before", earlier)
    index, unmoved = np.arange(len(earlier.ids), dtype=np.int32), [-1] * len(earlier.ids)
    codes = [codes_column(np.array(earlier_ids[m], np.int32)) for m in ("text", "image")]
    ids = dataset(path / "ids", schema.SEMANTIC_IDS, [index, earlier.ids, *codes, *[unmoved] * 2])
    return replace(
        inputs,
        latents=Artifact.open(marked.path),
        previous_latents=Source(str(before.latents.path)),
        previous_semantic_ids=Source(str(ids.path)),
    )


EARLIER = Catalogue(["a", "c", "gone"], *[[0.0, 0.0, 1.0], [[0, 0], [1, 0], [0, 1]]] * 2)
EARLIER_IDS = {"text": [[0, 1], [1, 0], [0, 0]], "image": [[0, 0], [1, 0], [0, 1]]}
LATER = Catalogue(  # a is the same, c is another thing, b is new and nearer to the code of a
    ["b", "c", "a"], [0.0, 0.0, 0.9], [[0, 0]] * 3, [0.0] * 3, [[0, 0], [1, 0], [0, 0]]
)


def test_with_a_frozen_quantizer_ids_stand_and_the_others_make_way(tmp_path):
    inputs = frozen_inputs(tmp_path, LATER, EARLIER, EARLIER_IDS)
    artifact, metrics = run(tmp_path, inputs)
    text, image = (codes_matrix(artifact, f"{m}_codes").tolist() for m in ("text", "image"))
    assert text[2] == [0, 1]  # the ID of a, though its nearest code is 00
    assert sorted(text[:2]) == [[0, 0], [1, 0]]
    assert (image[1], image[2]) == ([1, 0], [0, 0])  # b is nearer, but new
    assert image[0] == [0, 1]
    assert (metrics["text_kept"], metrics["image_kept"]) == (1, 2)
    assert artifact.table()["text_moved"].to_pylist()[2] == 1
    assert metrics["text_moved"] == 2


def test_without_the_mark_an_earlier_run_counts_for_nothing(tmp_path):
    inputs = frozen_inputs(tmp_path, LATER, EARLIER, EARLIER_IDS)
    assert spec.used_inputs(spec.Settings(), inputs) == inputs
    plain = replace(inputs, latents=make_inputs(tmp_path / "plain", LATER).latents)
    used = spec.used_inputs(spec.Settings(), plain)
    assert used.previous_latents is None and used.previous_semantic_ids is None


def test_a_frozen_quantizer_needs_the_earlier_run_that_it_is_of(tmp_path):
    inputs = frozen_inputs(tmp_path, LATER, EARLIER, EARLIER_IDS)
    with pytest.raises(UserError, match="previous_latents are not given"):
        run(tmp_path, replace(inputs, previous_latents=None))
    other = make_inputs(tmp_path / "other", CATALOGUE).latents
    with pytest.raises(UserError, match="3 previous semantic IDs but 4 previous latents"):
        run(tmp_path, replace(inputs, previous_latents=Source(str(other.path))))
