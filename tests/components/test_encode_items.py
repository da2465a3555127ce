"""Vectors of one component and codebooks by hand: the codes (a, b) decode to 10 a + b."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from components.encode_items import stage
from components.encode_items.spec import Execution, Inputs, Outputs, Settings
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, Source
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.centring import write_means
from macrec.data.columns import codes_column, codes_matrix, vector_column
from macrec.data.vectors import ItemVectors
from macrec.tokenizer import frozen_codes, renewal
from macrec.tokenizer.item_vectors_from_histories import fit_histories
from macrec.tokenizer.quantizer import CrossModalQuantizer, QuantizerSpec
from tests.artifacts import dataset
from tests.jobs import job
from tests.planted import history_embeddings

BOTH = QuantizerSpec(text_dim=1, image_dim=1, tokenizer="rqkmeans", levels=2, codebook_size=4)


class Catalogue(NamedTuple):
    """Item ids with the number that stands for their text and for their picture, or None."""

    ids: list[str]
    text: list[float | None]
    image: list[float | None]


OLD = Catalogue(
    ids=["b", "a", "c", "d", "gone"],
    text=[2.0, 2.1, 21.0, None, 30.0],
    image=[0.0, 11.0, 12.0, 23.0, None],
)
OLD_IDS = {  # b and a share their nearest text code 02; a had to move to 03
    "text": [[0, 2], [0, 3], [2, 1], [-1, -1], [3, 0]],
    "image": [[0, 0], [1, 1], [1, 2], [2, 3], [-1, -1]],
}
SAME = Catalogue(*(field[:4] for field in OLD))


def nearest(values):
    """Codes of the numbers, -1 for None."""
    codes = [(-1, -1) if v is None else divmod(min(max(round(v), 0), 33), 10) for v in values]
    return np.array(codes, np.int32).reshape(-1, 2)


def column(values):
    vector_N1 = np.array([[0.0 if v is None else v] for v in values], np.float32).reshape(-1, 1)
    return vector_column(vector_N1, np.array([v is not None for v in values], bool))


def make_quantizer(path, spec=BOTH, means=None):
    output = FolderOutput(path)
    output.prepare()
    model = CrossModalQuantizer(spec)
    with torch.no_grad():
        for part in model.parts().values():
            for level, book in enumerate(part.codebooks):
                book.copy_(torch.arange(4.0)[:, None] * (10, 1)[level])
    model.save(output.path)
    write_means(output.path, means or {name: np.zeros(1) for name in spec.dims})
    output.commit({})
    return Artifact.open(output.path)


def embeddings(path, values, mean=None):
    status = ["missing" if v is None else "ok" for v in values]
    index = np.arange(len(values), dtype=np.int32)
    if mean is None:
        return dataset(path, schema.embeddings(1), [index, column(values), status])
    output = DatasetOutput(path)
    output.prepare()
    with output.dataset(schema.embeddings(1)) as out:
        shifted = [None if v is None else v - mean for v in values]
        columns = {"item_index": index, "embedding": column(shifted), "status": status}
        out.write(stage.pa.table(columns))
        write_means(output.path, {"embedding": np.array([mean])})
    output.commit({})
    return Artifact.open(path)


def make_inputs(path, catalogue, *, spec=BOTH, means=None, mean=None):
    count, old_index = len(catalogue.ids), np.arange(len(OLD.ids), dtype=np.int32)
    ids = catalogue.ids
    items = [np.arange(count, dtype=np.int32), ids, ids, ids, [None] * count, [False] * count]
    codes = [codes_column(np.array(OLD_IDS[m], np.int32)) for m in ("text", "image")]
    moved = [np.array([-1, 1, -1, -1, -1], np.int8), np.full(5, -1, np.int8)]
    near = [codes_column(nearest(values)) for values in OLD[1:]]
    latents = [old_index, column(OLD.text), column(OLD.image), *near]
    return Inputs(
        items=dataset(path / "items", schema.ITEMS, items),
        text_embeddings=embeddings(path / "text", catalogue.text, mean),
        image_embeddings=embeddings(path / "image", catalogue.image),
        previous_semantic_ids=source(
            dataset(
                path / "ids",
                schema.SEMANTIC_IDS,
                [old_index, OLD.ids, *codes, *moved],
                codebook_size=4,
            )
        ),
        previous_latents=source(dataset(path / "latents", schema.latents(1, 1), latents)),
        previous_quantizer=source(make_quantizer(path / "quantizer", spec, means)),
    )


def source(artifact):
    return Source(str(artifact.path))


def digest(given):
    return Artifact.open(given.path()).digest


class Ran(NamedTuple):
    text: dict[str, list[int] | None]
    image: dict[str, list[int] | None]
    metrics: dict[str, float]
    semantic_ids: Artifact
    latents: Artifact


def run(path, inputs, **config):
    outputs = Outputs(
        semantic_ids=DatasetOutput(path / "new_ids"), latents=DatasetOutput(path / "new_latents")
    )
    for output in vars(outputs).values():
        output.prepare()
    execution = Execution(device="cpu")
    metrics = stage.run(job(Settings(**config), inputs, outputs, execution))
    for output in vars(outputs).values():
        output.commit({})
    ids, latents = (Artifact.open(output.path) for output in vars(outputs).values())
    table = ids.table().to_pydict()
    codes = (
        dict(zip(table["item_id"], table[f"{m}_codes"], strict=True)) for m in stage.MODALITIES
    )
    return Ran(*codes, metrics, ids, latents)


def ids_of(modality, *names):
    codes = dict(zip(OLD.ids, OLD_IDS[modality], strict=True))
    return {name: codes[name] if codes[name][0] >= 0 else None for name in names}


def extended(ids=(), text=(), image=(), start=SAME):
    """The catalogue with more items in front, so that no row is where it was."""
    added = (list(ids), list(text), list(image))
    return Catalogue(*(new + old for new, old in zip(added, start, strict=True)))


def replaced(item, **values):
    row = OLD.ids.index(item)
    fields = {name: list(getattr(SAME, name)) for name in SAME._fields}
    for name, value in values.items():
        fields[name][row] = value
    return Catalogue(**fields)


def test_an_unchanged_catalogue_keeps_every_id(tmp_path):
    inputs = make_inputs(tmp_path, OLD)
    ran = run(tmp_path, inputs)
    assert ran.text == ids_of("text", *OLD.ids)
    assert ran.image == ids_of("image", *OLD.ids)
    assert ran.semantic_ids.schema.equals(schema.SEMANTIC_IDS)
    assert ran.semantic_ids.metadata == {"codebook_size": 4}
    assert ran.semantic_ids.digest == digest(inputs.previous_semantic_ids)
    assert ran.latents.digest == digest(inputs.previous_latents)
    assert ran.metrics["text_churn"] == ran.metrics["image_churn"] == 0


def test_new_items_take_the_nearest_free_codes_and_old_ones_stay(tmp_path):
    # n1 stands on b's codeword 02 itself; 02 and 03 are b's and a's, so 01 is the nearest free one.
    # n2 would like 30, which the item that is gone has left free.
    catalogue = extended(["n1", "n2"], [2.0, 30.0], [33.0, None])
    ran = run(tmp_path, make_inputs(tmp_path, catalogue))
    assert ran.text == {"n1": [0, 1], "n2": [3, 0]} | ids_of("text", *SAME.ids)
    assert ran.image == {"n1": [3, 3], "n2": None} | ids_of("image", *SAME.ids)
    table = ran.semantic_ids.table().to_pydict()
    assert table["item_index"] == [0, 1, 2, 3, 4, 5]
    assert table["text_moved"] == [1, -1, -1, 1, -1, -1]
    assert codes_matrix(ran.latents, "text_codes").tolist() == nearest(catalogue.text).tolist()
    assert ran.metrics == {
        **{"items": 6, "new": 2, "removed": 1},
        **{"text_items": 5, "text_new": 2, "text_lost": 0, "text_changed": 0, "text_moved": 1},
        **{"text_kept": 3, "text_churn": 0},
        **{"image_items": 5, "image_new": 1, "image_lost": 0, "image_changed": 0, "image_moved": 0},
        **{"image_kept": 4, "image_churn": 0},
    }


def test_a_changed_item_gets_a_new_id_and_its_old_one_is_free(tmp_path):
    catalogue = extended(["n"], [2.0], [1.0], start=replaced("b", text=32.0))
    ran = run(tmp_path, make_inputs(tmp_path, catalogue))
    assert ran.text == ids_of("text", *SAME.ids) | {"b": [3, 2], "n": [0, 2]}
    assert ran.image == ids_of("image", *SAME.ids) | {"n": [0, 1]}
    assert (ran.metrics["text_changed"], ran.metrics["text_kept"]) == (1, 2)
    assert ran.metrics["text_churn"] == pytest.approx(1 / 3)
    assert ran.metrics["image_churn"] == 0


def test_a_changed_item_keeps_its_id_where_all_are_to_keep_theirs(tmp_path):
    catalogue = replaced("b", text=32.0)
    ran = run(tmp_path, make_inputs(tmp_path, catalogue), changed="keep")
    assert ran.text == ids_of("text", *SAME.ids)
    assert (ran.metrics["text_changed"], ran.metrics["text_churn"]) == (1, 0)
    # The change is not forgotten: the record is still that on which the ID rests.
    assert codes_matrix(ran.latents, "text_codes")[0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "changed", "recorded"),
    [
        (20.6, 0, 20.6),  # other vector, same codes: what is recorded follows
        (21.4, 0, 21.4),
        (21.6, 1, 21.6),
    ],
)
def test_a_change_that_calls_for_the_same_codes_changes_nothing(tmp_path, text, changed, recorded):
    inputs = make_inputs(tmp_path, replaced("c", text=text))
    ran = run(tmp_path, inputs, tolerance=0.01)
    assert ran.metrics["text_changed"] == changed
    assert ran.text["c"] == ([2, 2] if changed else [2, 1])
    latents = ran.latents.table(["text_latent"]).column(0).to_pylist()
    assert latents[2] == pytest.approx([recorded])


def test_within_the_tolerance_an_item_between_two_codewords_does_not_change_sides(tmp_path):
    inputs = make_inputs(tmp_path, replaced("c", text=21.6))
    ran = run(tmp_path, inputs, tolerance=0.1)
    assert ran.text["c"] == [2, 1] and ran.metrics["text_changed"] == 0
    # Small steps do not add up unseen: the latent recorded is the old one.
    assert ran.latents.table(["text_latent"]).column(0).to_pylist()[2] == [21.0]


@pytest.mark.parametrize("item", ["b", "d"])
def test_an_item_may_lose_or_gain_a_modality(tmp_path, item):
    value = None if item == "b" else 3.2
    ran = run(tmp_path, make_inputs(tmp_path, replaced(item, text=value)))
    assert ran.image == ids_of("image", *SAME.ids)
    if item == "b":
        assert ran.text == ids_of("text", *SAME.ids) | {"b": None}
        assert (ran.metrics["text_lost"], ran.metrics["text_churn"]) == (1, pytest.approx(1 / 3))
    else:  # 03 is a's
        assert ran.text == ids_of("text", *SAME.ids) | {"d": [0, 1]}
        assert (ran.metrics["text_new"], ran.metrics["text_churn"]) == (1, 0)


def test_the_mean_that_was_subtracted_from_the_new_vectors_is_put_right(tmp_path):
    means = {"text": np.array([-5.0]), "image": np.array([0.0])}
    catalogue = Catalogue(OLD.ids, [None if v is None else v - 5.0 for v in OLD.text], OLD.image)
    ran = run(tmp_path, make_inputs(tmp_path, catalogue, means=means, mean=7.0))
    assert ran.text == ids_of("text", *OLD.ids)
    assert ran.latents.table(["text_latent"]).column(0).to_pylist()[2] == [21.0]


def test_histories_that_the_quantizer_knows_are_those_it_was_trained_with(tmp_path, monkeypatch):
    """The codes are those of the history vector alone: content only foretells that of new items."""
    spec = QuantizerSpec(text_dim=1, image_dim=1, tokenizer="rqkmeans", levels=1, codebook_size=2)
    content = {
        name: ItemVectors(np.array([[-1.0], [1.0]], np.float32), np.ones(2, bool))
        for name in ("text", "image")
    }
    met = history_embeddings(
        tmp_path / "met", np.array([[1.0], [-1.0]]), np.array([9, 9]), ["a", "b"]
    )
    histories = fit_histories(content, met, weight=10.0)
    output = FolderOutput(tmp_path / "with_histories")
    output.prepare()
    model = CrossModalQuantizer(replace(spec, text_dim=2, image_dim=2))
    for part in model.parts().values():
        part.codebooks[0].data = torch.tensor([[0.0, -10.0], [0.0, 10.0]])
    model.save(output.path)
    write_means(output.path, {name: np.zeros(1) for name in spec.dims})
    histories.save(output.path)
    output.commit({})
    new = Catalogue(["new", "a", "b"], [-1.0, 1.0, -1.0], [None, 1.0, -1.0])
    inputs = make_inputs(tmp_path, new)
    quantizer = Artifact.open(output.path)
    monkeypatch.setattr(frozen_codes, "CHUNK", 2)
    embeddings = {name: getattr(inputs, f"{name}_embeddings") for name in ("text", "image")}
    ids = inputs.items.table(["item_id"]).column(0).combine_chunks()
    found = frozen_codes.encode(model, quantizer, embeddings, ids)
    assert found["text"].nearest_NL.tolist() == [[1], [1], [0]]  # new is like a was in content
    assert found["image"].nearest_NL.tolist() == [[-1], [1], [0]]


def test_more_changes_than_a_catalogue_can_have_are_refused(tmp_path):
    catalogue = Catalogue(SAME.ids, [32.0, 13.0, 21.0, None], SAME.image)
    inputs = make_inputs(tmp_path, catalogue)
    with pytest.raises(UserError, match=r"2 of 3 old items would get other text codes.* 50%"):
        run(tmp_path, inputs)
    assert run(tmp_path, inputs, max_changed=0.7).metrics["text_changed"] == 2


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_new_item_without_a_modality_works_or_fails_by_policy(tmp_path, modality):
    values = {"text": [1.0], "image": [1.0]} | {modality: [None]}
    catalogue = extended(["n"], **values, start=Catalogue(*(field[:3] for field in OLD)))
    inputs = make_inputs(tmp_path, catalogue)
    ran = run(tmp_path, inputs)
    assert (ran.text["n"], ran.image["n"]) == (
        (None, [0, 1]) if modality == "text" else ([0, 1], None)
    )
    with pytest.raises(UserError, match=rf"1 of 4 items have no {modality} vector \(first: n\)"):
        run(tmp_path, inputs, missing_modality="fail")


@pytest.mark.parametrize("bad", [{"tolerance": -1}, {"max_changed": 1.5}])
def test_a_configuration_out_of_range_is_refused(bad):
    with pytest.raises(UserError, match="|".join(bad)):
        Settings(**bad)


def test_an_item_with_neither_text_nor_picture_is_refused(tmp_path):
    inputs = make_inputs(tmp_path, extended(["n"], [None], [None]))
    with pytest.raises(UserError, match=r"1 of 5 items have no text and no image .*\(first: n\)"):
        run(tmp_path, inputs)


def test_a_quantizer_of_text_alone(tmp_path):
    spec = QuantizerSpec(text_dim=1, image_dim=0, tokenizer="rqkmeans", levels=2, codebook_size=4)
    catalogue = Catalogue(["n", "b"], [12.0, 2.0], [None, None])
    ran = run(tmp_path, make_inputs(tmp_path, catalogue, spec=spec))
    assert ran.text == {"n": [1, 2], "b": [0, 2]}
    assert ran.image == {"n": None, "b": None}
    assert "image_items" not in ran.metrics


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"text_dim": 2}, "the previous text latents have 1 components .* quantizer has 2"),
        ({"levels": 1}, "codes 2 levels up to 3; the quantizer has 1 components and 1 levels"),
    ],
)
def test_a_foreign_quantizer_is_refused(tmp_path, monkeypatch, spec, message):
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, _: self)  # codebooks of other shapes
    given = {"text_dim": 1, "image_dim": 1, "levels": 2} | spec
    other = QuantizerSpec(tokenizer="rqkmeans", codebook_size=4, **given)
    with pytest.raises(UserError, match=message):
        run(tmp_path, make_inputs(tmp_path, SAME, spec=other))


def test_vectors_of_another_encoder_are_refused(tmp_path):
    inputs = make_inputs(tmp_path, SAME)
    index = np.arange(4, dtype=np.int32)
    two = vector_column(np.zeros((4, 2), np.float32), np.ones(4, bool))
    wide = dataset(tmp_path / "wide", schema.embeddings(2), [index, two, ["ok"] * 4])
    with pytest.raises(UserError, match="text vectors have 2 components, those"):
        run(tmp_path, Inputs(**{**vars(inputs), "text_embeddings": wide}))
    none = embeddings(tmp_path / "none", [None] * 4)
    with pytest.raises(UserError, match="no item has image vectors"):
        run(tmp_path, Inputs(**{**vars(inputs), "image_embeddings": none}))


def test_artifacts_of_several_runs_are_refused(tmp_path):
    one, other = make_inputs(tmp_path / "1", SAME), make_inputs(tmp_path / "2", OLD)
    with pytest.raises(UserError, match="4 items but 5 text vectors"):
        run(tmp_path, Inputs(**{**vars(one), "text_embeddings": other.text_embeddings}))
    few = dataset(
        tmp_path / "few",
        schema.latents(1, 1),
        [np.zeros(1, np.int32), column([1]), column([1]), *2 * [codes_column(nearest([1]))]],
    )
    with pytest.raises(UserError, match="5 previous semantic IDs but 1 previous latents"):
        run(tmp_path, Inputs(**{**vars(one), "previous_latents": source(few)}))


def test_a_quantizer_that_does_not_tell_its_mean_is_refused(tmp_path):
    inputs = make_inputs(tmp_path, SAME)
    output = FolderOutput(tmp_path / "old_quantizer")
    output.prepare()
    for name in ("config.json", "model.safetensors", "codebooks.safetensors"):
        (output.path / name).write_bytes((inputs.previous_quantizer.path() / name).read_bytes())
    output.commit({})
    other = Artifact.open(output.path)
    with pytest.raises(UserError, match="mean that was subtracted from its vectors is unknown"):
        run(tmp_path, Inputs(**{**vars(inputs), "previous_quantizer": source(other)}))


def test_what_an_item_gets_depends_on_no_other_item_but_by_collision(tmp_path, monkeypatch):
    """Latents and nearest codes are the same in chunks, in another order and next to others."""
    rng = np.random.default_rng(0)
    names = [f"n{k:02d}" for k in range(16)]
    text, image = (rng.uniform(0, 33, 16).round(2).tolist() for _ in range(2))
    whole = Catalogue(names, text, image)
    first = run(tmp_path / "a", make_inputs(tmp_path / "a", whole))
    monkeypatch.setattr(frozen_codes, "CHUNK", 3)
    monkeypatch.setattr(renewal, "CHUNK", 3)
    order = rng.permutation(16)
    turned = Catalogue(*([field[k] for k in order] for field in whole))
    second = run(tmp_path / "b", make_inputs(tmp_path / "b", turned))
    assert second.text == first.text and second.image == first.image
    for name in ("text_codes", "image_codes", "text_latent", "image_latent"):
        rows = first.latents.table([name]).column(0).to_pylist()
        assert second.latents.table([name]).column(0).to_pylist() == [rows[k] for k in order]
