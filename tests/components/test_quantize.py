"""The quantize stage: the losses of a batch, training, and what the stage writes."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.quantize import evaluation, objective, quantizer_losses, quantizer_training
from components.quantize.data import Modality
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import codes_matrix
from macrec.tokenizer.quantizer import load_quantizer
from tests.planted import (
    CPU,
    GROUPS,
    SMALL,
    history_embeddings,
    make_inputs,
    planted,
    run,
    untrained,
    without,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def terms_of(model, batch, config):
    passes = objective.forward(model, batch, config)
    pairs = {
        name: quantizer_losses.find_pairs(
            objective.other_labels(batch, name), config.contrastive_positives
        )
        for name in batch
    }
    return objective.loss_terms(model, torch.nn.ModuleDict(), passes, pairs, config)


def state(config, catalogue=None):
    model = quantizer_training.train(catalogue or planted(), config, CPU).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in one
    )


# ---------------------------------------------------------------- losses of a batch


def test_positives_come_from_the_labels_of_the_other_modality():
    catalogue = planted()
    config = replace(SMALL, contrastive_weights=(1.0, 1.0, 1.0), align_weight=0.0)
    model = untrained(catalogue, config).model
    before = terms_of(model, catalogue, config)
    other = catalogue["text"]._replace(label_N=catalogue["text"].label_N.roll(1) // 2)
    after = terms_of(model, catalogue | {"text": other}, config)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"image_contrastive_{level}" for level in range(3)}


@pytest.mark.parametrize(
    "settings",
    [
        {"align_gradient": "codebooks"},
        {"align_gradient": "encoder"},
        {"align_gradient": "both"},
        {"shared_levels": 2},
        {"sinkhorn_epsilons": (0.05, 0.05, 0.05)},
        {"gradient_estimator": "rotation"},
    ],
)
def test_what_stands_in_a_missing_row_influences_nothing(settings):
    catalogue = without(planted(), "image", 0, 17)
    config = replace(SMALL, contrastive_weights=(0.5, 0.5, 0.5), **settings)
    model = untrained(catalogue, config).model
    results = []
    for garbage in (0.0, 1e6, float("nan")):
        vectors = catalogue["image"].embedding_NE.clone()
        vectors[[0, 17]] = garbage
        changed = catalogue | {"image": catalogue["image"]._replace(embedding_NE=vectors)}
        model.zero_grad()
        terms = terms_of(model, changed, config)
        torch.stack(list(terms.values())).sum().backward()
        results.append([*terms.values(), *(p.grad.clone() for p in model.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_item_without_picture_is_as_if_only_its_text_were_there():
    catalogue = planted()
    config = replace(SMALL, contrastive_weights=(0.5, 0.5, 0.5))
    model = untrained(catalogue, config).model
    masked = terms_of(model, without(catalogue, "image", *range(60, 90)), config)
    first = {name: data.take(torch.arange(60), CPU) for name, data in catalogue.items()}
    alone = terms_of(model, first, config)
    for term in masked:
        if term not in ("text_reconstruction", "text_rq"):
            torch.testing.assert_close(masked[term], alone[term])


@pytest.mark.parametrize("shared_levels", [0, 2])
def test_missing_rows_do_not_count_for_the_balance_of_codes(shared_levels):
    catalogue = without(planted(), "image", *range(30, 90))
    catalogue = without(catalogue, "text", *(range(30, 90) if shared_levels else ()))
    config = replace(
        SMALL, sinkhorn_epsilons=(0.05, 0.05, 0.05), shared_levels=shared_levels,
        codebook_init="normal", codebook_update="gradient",
    )  # fmt: skip
    model = untrained(planted(), config).model
    first = {name: data.take(torch.arange(30), CPU) for name, data in catalogue.items()}
    whole, alone = (
        objective.forward(model, batch, config)["image"].quantized.codes_BL
        for batch in (catalogue, first)
    )
    assert torch.equal(whole[:30], alone)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), (0, 0, 0)), ((0.1,), (0, 0, 0.1)), ((1, 2), (0, 1, 2)), ((1, 2, 3), (1, 2, 3))],
)
def test_a_short_tuple_of_weights_belongs_to_the_last_levels(given, expected):
    config = replace(SMALL, contrastive_weights=given)
    assert config.per_level(given) == expected
    weights = objective.term_weights(config, ("text", "image"))
    assert [weights.get(f"text_contrastive_{n}", 0) for n in range(3)] == list(expected)


def test_share_of_anchors_with_a_positive():
    text = Modality(torch.zeros(5, 2), torch.ones(5).bool(), torch.tensor([0, 0, 1, 2, 3]))
    image = Modality(
        torch.zeros(5, 2), torch.tensor([1, 1, 1, 1, 0]).bool(), torch.tensor([7, 7, 7, 8, -1])
    )
    batch = {"text": text, "image": image}
    # Text anchors go by image labels: 0, 1, 2 have one, 3 has none, 4 is no anchor.
    for name, expected in (("text", [3, 4]), ("image", [2, 4])):
        pairs = quantizer_losses.find_pairs(objective.other_labels(batch, name))
        assert pairs.count_anchors().tolist() == expected


# ---------------------------------------------------------------- training


def test_the_same_seed_gives_the_same_model():
    assert same(state(SMALL), state(SMALL))


@pytest.mark.parametrize("update", ["refit", "gradient"])
def test_the_first_level_separates_planted_groups(update):
    catalogue = planted()
    config = replace(
        SMALL, codebook_size=GROUPS, epochs=30, learning_rate=0.02, codebook_update=update
    )
    trained = quantizer_training.train(catalogue, config, CPU)
    codes, figures = evaluation.evaluate(trained, catalogue, config)
    for name in catalogue:
        first = codes[name][:, 0].reshape(-1, GROUPS)
        assert (first == first[0]).all() and len(set(first[0])) == GROUPS
        assert figures[f"{name}_perplexity_0"] == pytest.approx(GROUPS)
        assert figures[f"{name}_unexplained_variance_2"] < 0.2
        assert figures[f"{name}_anchors_with_positive"] == 1.0
    for term in ("text_reconstruction", "image_reconstruction"):
        assert trained.history[-1][term] < trained.history[0][term] / 3


@pytest.mark.case(36)
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named():
    with pytest.raises(UserError, match=r"text_rq.* epoch [12], step \d.*learning_rate"):
        quantizer_training.train(planted(), replace(SMALL, learning_rate=1e30), CPU)


def test_fewer_vectors_than_codewords():
    catalogue = without(planted(20), "image", *range(13))
    with pytest.raises(UserError, match=r"image_embeddings: 7 of 20 .*quantize.codebook_size"):
        quantizer_training.train(catalogue, SMALL, CPU)


@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_vectors_without_variance_or_not_finite_are_refused(value):
    catalogue = planted()
    text = catalogue["text"]._replace(embedding_NE=torch.full((90, 10), value))
    with pytest.raises(UserError, match=r"text_embeddings: the 90 vectors"):
        quantizer_training.train(catalogue | {"text": text}, SMALL, CPU)


# ---------------------------------------------------------------- the stage


def test_the_stage_writes_codes_that_its_quantizer_repeats(tmp_path):
    catalogue = without(planted(), "image", 3, 4)
    latents, folder, metrics = run(tmp_path, make_inputs(tmp_path, catalogue))
    assert latents.schema.equals(schema.latents(4, 4)) and latents.rows == 90
    rows = latents.table().to_pylist()
    assert [r["item_index"] for r in rows] == list(range(90))
    missing = [r["item_index"] for r in rows if r["image_codes"] is None]
    assert missing == [3, 4] == [r["item_index"] for r in rows if r["image_latent"] is None]
    assert not any(r["text_codes"] is None or r["text_latent"] is None for r in rows)
    model = load_quantizer(folder)
    present = {name: data.present_N for name, data in catalogue.items()}
    again = model.encode({n: data.embedding_NE for n, data in catalogue.items()}, present)
    for name, present_N in present.items():
        codes_NL = codes_matrix(latents, f"{name}_codes")
        assert codes_NL[present_N].tolist() == again[name].codes_NL[present_N].tolist()
    history = json.loads((folder / "history.json").read_text())
    assert [e["epoch"] for e in history["epochs"]] == [1, 2, 3]
    assert history["final"] == metrics
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["image_items"] == 88 and metrics["text_anchors_with_positive"] == 1.0


def test_where_the_vectors_lie_changes_nothing(tmp_path):
    inputs = make_inputs(tmp_path, planted())
    resident, *_ = run(tmp_path / "a", inputs)
    streamed, *_ = run(tmp_path / "b", inputs, memory_gib=0.0)
    assert resident.table().equals(streamed.table())


SIDE_N = np.arange(90) // GROUPS % 2


def met_by_side(path):
    """Item i of `planted` was met beside those of its side, which its content does not tell."""
    vector_NH = np.eye(2)[SIDE_N] + 0.1 * np.random.default_rng(1).normal(size=(90, 2))
    met_N = np.full(90, 100)
    met_N[80:] = 0
    return history_embeddings(path / "histories", vector_NH, met_N)


def test_what_histories_say_of_an_item_is_part_of_its_codes(tmp_path):
    catalogue = without(planted(), "image", 3, 85)
    config = replace(SMALL, codebook_size=2, levels=2, epochs=10, history_weight=10.0)
    inputs = make_inputs(tmp_path, catalogue, met_by_side(tmp_path))
    latents, folder, _ = run(tmp_path / "with", inputs, config)
    plain, plain_folder, _ = run(tmp_path / "plain", make_inputs(tmp_path / "b", catalogue), config)
    for name, data in catalogue.items():
        met_N = data.present_N.numpy() & (np.arange(90) < 80)
        code_N, plain_N = (codes_matrix(a, f"{name}_codes")[met_N, 0] for a in (latents, plain))
        side_N = SIDE_N[met_N]
        assert (code_N == side_N).all() or (code_N != side_N).all()
        assert not ((plain_N == side_N).all() or (plain_N != side_N).all())
        spec = load_quantizer(folder).spec
        assert spec.dims[name] == data.embedding_NE.shape[1] + 2
    assert (folder / "histories.parquet").exists()
    assert not (plain_folder / "histories.parquet").exists()
    assert load_quantizer(plain_folder).spec.text_dim == 10


def test_with_histories_it_does_not_matter_where_the_vectors_lie_either(tmp_path):
    inputs = make_inputs(tmp_path, planted(), met_by_side(tmp_path))
    resident, *_ = run(tmp_path / "a", inputs)
    streamed, *_ = run(tmp_path / "b", inputs, memory_gib=0.0)
    assert resident.table().equals(streamed.table())


def test_inputs_of_two_catalogues_are_refused(tmp_path):
    inputs = make_inputs(tmp_path, planted())
    other = make_inputs(tmp_path / "other", planted(80))
    with pytest.raises(UserError, match=r"'text_embeddings': 90, .*'pseudo_labels': 80"):
        run(tmp_path, replace(inputs, pseudo_labels=other.pseudo_labels))


def test_main_is_light_to_import():
    code = "import sys, components.quantize.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src:."}).returncode == 0
