"""Measures of semantic IDs from artifacts: two levels of three codewords on a line."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.evaluate import spec
from components.evaluate.tokenizer_figures import measure
from macrec.core.artifact import Artifact, FolderOutput
from macrec.data import schema
from macrec.data.columns import codes_column, vector_column
from macrec.data.split import read_split
from macrec.tokenizer.prefix_lift import Pairs, prefix_lift
from tests.artifacts import dataset

# the codes decode to 0, 1, 2 / 10, 11, 12 / 20, 21, 22
BOOKS = np.array([[[0.0], [10.0], [20.0]], [[0.0], [1.0], [2.0]]], np.float32)
BEFORE = [[0, 0], [0, 0], [0, 0], [1, 2], [2, 1], [2, 1], [1, 0]]
AFTER = [[0, 0], [0, 1], [1, 1], [1, 2], [2, 1], [2, 0], [1, 0]]
LATENTS = [0.0, 0.5, 4.5, 12.0, 21.0, 20.5, 10.5]
MOVED = [-1, 1, 0, -1, -1, 1, -1]
TRAINING = [[0, 1, 2, 0], [3, 6], [4, 5, 4]]
HELD_OUT = [[1, 4], [2, 0], [3, 3]]
FINAL = {
    "text_unexplained_variance_0": 0.5,
    "text_unexplained_variance_1": 0.25,
    "text_recall_1": 0.75,
    "text_candidates_1": 0.125,
    "image_recall_1": 0.5,
    "text_perplexity_0": 99.0,
    "text_items": 7.0,
}


def folder(path, history, codebooks) -> Artifact:
    output = FolderOutput(path)
    output.prepare()
    if history is not None:
        (path / "history.json").write_text(json.dumps(history))
    if codebooks:
        save_file(codebooks, path / "codebooks.safetensors")
    output.commit({"stage": "quantize", "config": {}})
    return Artifact.open(path)


def measured(path, text=(BEFORE, AFTER, MOVED), image=None, history=True, codebooks=True):
    """What `measure` finds; a modality is its codes before, after, and the level that moved."""
    count = len(LATENTS)
    without = (np.full((count, 2), -1), np.full((count, 2), -1), [-1] * count)
    sides = [without if side is None else side for side in (text, image)]
    index, ids = list(range(count)), [f"id{k}" for k in range(count)]
    before, after = ([codes_column(np.array(side[k])) for side in sides] for k in (0, 1))
    latents = [
        vector_column(np.array(LATENTS)[:, None], np.array(side[0])[:, 0] >= 0) for side in sides
    ]
    lists = [training + last for training, last in zip(TRAINING, HELD_OUT, strict=True)]
    users = [f"user{k}" for k in range(len(lists))]
    books = {name: BOOKS for name, side in (("text", text), ("image", image)) if side is not None}
    items = dataset(
        path / "items", schema.ITEMS, [index, ids, ids, ids, [None] * count, [False] * count]
    )
    quantizer = folder(
        path / "quantizer",
        {"epochs": [], "final": FINAL} if history else None,
        books if codebooks else {},
    )
    inputs = spec.Inputs(
        items=items,
        sequences=dataset(
            path / "sequences", schema.SEQUENCES, [users, lists, [None] * len(lists)]
        ),
        semantic_ids=dataset(
            path / "semantic_ids",
            schema.SEMANTIC_IDS,
            [index, ids, *after, *(side[2] for side in sides)],
        ),
        latents=dataset(path / "latents", schema.latents(1, 1), [index, *latents, *before]),
        quantizer=quantizer,
        recommender=quantizer,
    )
    return measure(inputs, read_split(inputs.sequences, count), 3)


def test_usage_is_that_of_the_final_ids(tmp_path):
    figures = measured(tmp_path).figures
    assert figures["text_largest_bucket_0"] == pytest.approx(3 / 7)  # codeword 1; before it was 0
    assert figures["text_perplexity_0"] == pytest.approx(
        math.exp(-2 * 2 / 7 * math.log(2 / 7) - 3 / 7 * math.log(3 / 7))
    )
    assert figures["text_collision_rate"] == 0


def test_collisions_are_counted_before_and_items_by_how_high_they_moved(tmp_path):
    found = measured(tmp_path)
    (collisions,) = found.collisions
    assert (collisions.rate_before, collisions.rate_after) == (pytest.approx(3 / 7), 0)
    assert collisions.group_sizes == {3: 1, 2: 1}
    assert (collisions.moved, collisions.moved_by_level) == (3, (1, 2))
    figures = found.figures
    assert figures["text_collision_rate_before"] == pytest.approx(3 / 7)
    assert figures["text_shared_code_share_before"] == pytest.approx(5 / 7)
    assert figures["text_largest_group"] == 3
    assert (figures["text_moved_0"], figures["text_moved_1"]) == (1, 2)


def test_displacement_is_in_mean_distances_of_an_item_to_its_code(tmp_path):
    found = measured(tmp_path)
    # moved: 0 -> 1, 0 -> 11, 21 -> 20; errors before: 0, 0.5, 4.5, 0, 0, 0.5, 0.5
    expected = ((1 + 11 + 1) / 3) / ((0.5 + 4.5 + 0.5 + 0.5) / 7)
    assert found.figures["text_displacement"] == pytest.approx(expected)
    assert found.collisions[0].displacement == pytest.approx(expected)


def test_nothing_moved_is_displacement_0(tmp_path):
    found = measured(tmp_path, text=(AFTER, AFTER, [-1] * 7))
    assert found.figures["text_displacement"] == 0
    assert found.collisions[0].moved_by_level == (0, 0)


def test_lift_is_of_the_final_prefixes_over_training_pairs(tmp_path):
    found = measured(tmp_path)
    pairs = [(0, 1), (1, 2), (2, 0), (3, 6), (4, 5), (5, 4)]
    users = np.array([0, 0, 0, 1, 2, 2])
    (expected,) = prefix_lift(np.array(AFTER)[:, :1], Pairs(np.array(pairs), users))
    assert expected.rate == pytest.approx(4 / 6)  # before, all six shared the first code
    assert found.figures["text_lift_1"] == expected.lift
    assert found.figures["text_lift_error_1"] == expected.error
    (validation,) = prefix_lift(
        np.array(AFTER)[:, :1], Pairs(np.array([(0, 1), (6, 2), (4, 3)]), np.arange(3))
    )
    assert found.figures["text_validation_lift_1"] == validation.lift
    first, last = found.tokenizers[0].prefixes
    assert first.lift.value == expected.lift
    assert first.lift.high == pytest.approx(expected.lift + expected.error)
    assert first.lift.low == pytest.approx(expected.lift - expected.error)
    assert first.validation_lift.value == validation.lift
    # no two items share all codes: there is nothing to measure
    assert "text_lift_2" not in found.figures
    assert last.lift.value is last.validation_lift.value is None


def test_what_quantize_measured_is_passed_on(tmp_path):
    found = measured(tmp_path)
    told = {name: value for name, value in FINAL.items() if "perplexity" not in name}
    del told["text_items"], told["image_recall_1"]
    assert {name: found.figures[name] for name in told} == told
    assert "text_items" not in found.figures and "image_recall_1" not in found.figures
    assert found.figures["text_perplexity_0"] < 3  # its own, not that of the codes before
    first, last = found.tokenizers[0].prefixes
    assert (first.unexplained, first.recall, first.candidates) == (0.5, 0.75, 0.125)
    assert (last.unexplained, last.recall, last.candidates) == (0.25, None, None)


def test_both_modalities_agree_as_far_as_items_have_both(tmp_path):
    image = np.array(AFTER)
    image[[1, 2]] = -1
    found = measured(tmp_path, image=(image, image, [-1] * 7))
    assert found.figures["agreement_0"] == pytest.approx(1)
    assert [agreement.adjusted for agreement in found.agreement] == pytest.approx([1, 1])
    assert [t.modality for t in found.tokenizers] == ["text", "image"]
    assert found.figures["image_recall_1"] == 0.5
    assert found.figures["image_utilisation_0"] == 1
    assert all(type(v) is float and math.isfinite(v) for v in found.figures.values())


@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_modality_alone(tmp_path, modality):
    sides = {"text": None, "image": None} | {modality: (BEFORE, AFTER, MOVED)}
    found = measured(tmp_path, **sides)
    assert found.figures and all(name.startswith(f"{modality}_") for name in found.figures)
    assert [t.modality for t in found.tokenizers] == [modality]
    assert [c.modality for c in found.collisions] == [modality]
    assert found.agreement == ()
    assert found.figures[f"{modality}_displacement"] > 0


def test_a_quantizer_that_tells_nothing_leaves_its_figures_out(tmp_path):
    found = measured(tmp_path, history=False, codebooks=False)
    assert found.collisions[0].displacement is None
    absent = ("displacement", "recall", "candidates", "unexplained")
    assert not [name for name in found.figures if any(word in name for word in absent)]
    assert found.tokenizers[0].prefixes[0].recall is None
