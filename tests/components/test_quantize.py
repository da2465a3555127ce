import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.quantize import codebooks, evaluation, losses, sizes, training
from components.quantize import main as stage
from components.quantize.data import Modality
from macrec import schema
from macrec.arrays import codes_matrix, vector_column
from macrec.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.errors import UserError
from macrec.quantization import nearest_codes
from macrec.quantizer import CrossModalQuantizer, QuantizerSpec, load_quantizer
from tests.artifacts import dataset

CPU = torch.device("cpu")
GROUPS = 6
SMALL = stage.Config(
    codebook_size=8, levels=3, latent_dim=4, hidden=(12,), epochs=3, batch_size=45, refit_every=2
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(items=90, seed=0):
    """Item i belongs to group i % GROUPS; groups lie far apart in both modalities."""
    rng = np.random.default_rng(seed)
    group_N = np.arange(items) % GROUPS
    label_N = torch.from_numpy(group_N)

    def modality(dim):
        centres = rng.normal(size=(GROUPS, dim))[group_N]
        vectors = (centres + 0.1 * rng.normal(size=centres.shape)).astype(np.float32)
        return Modality(torch.from_numpy(vectors), torch.ones(items).bool(), label_N.clone())

    return {"text": modality(10), "image": modality(7)}


def without_images(catalogue, *rows):
    image = catalogue["image"]
    present_N, label_N = image.present_N.clone(), image.label_N.clone()
    present_N[list(rows)], label_N[list(rows)] = False, -1
    return catalogue | {"image": image._replace(present_N=present_N, label_N=label_N)}


def quantizer(catalogue, config=SMALL):
    return training._Trainer(catalogue, config, CPU).model


def terms_of(model, batch, config):
    passes = training.forward(model, batch, config)
    pairs = {
        name: losses.find_pairs(training.other_labels(batch, name), config.contrastive_positives)
        for name in batch
    }
    return training.loss_terms(model, torch.nn.ModuleDict(), passes, pairs, config)


def state(config, catalogue=None):
    model = training.train(catalogue or planted(), config, CPU).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in one
    )


# ---------------------------------------------------------------- losses of a batch


def test_positives_come_from_the_labels_of_the_other_modality():
    catalogue = planted()
    config = replace(SMALL, contrastive_weights=(1.0, 1.0, 1.0), align_weight=0.0)
    model = quantizer(catalogue, config)
    before = terms_of(model, catalogue, config)
    other = catalogue["text"]._replace(label_N=catalogue["text"].label_N.roll(1) // 2)
    after = terms_of(model, catalogue | {"text": other}, config)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"image_contrastive_{level}" for level in range(3)}


@pytest.mark.parametrize("align", ["codebooks", "encoder", "both"])
def test_what_stands_in_a_missing_row_influences_nothing(align):
    catalogue = without_images(planted(), 0, 17)
    config = replace(SMALL, contrastive_weights=(0.5, 0.5, 0.5), align_gradient=align)
    model = quantizer(catalogue, config)
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
    model = quantizer(catalogue, config)
    masked = terms_of(model, without_images(catalogue, *range(60, 90)), config)
    first = {name: data.take(torch.arange(60), CPU) for name, data in catalogue.items()}
    alone = terms_of(model, first, config)
    for term in masked:
        if term not in ("text_reconstruction", "text_rq"):
            torch.testing.assert_close(masked[term], alone[term])


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), (0, 0, 0)), ((0.1,), (0, 0, 0.1)), ((1, 2), (0, 1, 2)), ((1, 2, 3), (1, 2, 3))],
)
def test_a_short_tuple_of_weights_belongs_to_the_last_levels(given, expected):
    config = replace(SMALL, contrastive_weights=given)
    assert config.per_level(given) == expected
    weights = training.term_weights(config, ("text", "image"))
    assert [weights.get(f"text_contrastive_{n}", 0) for n in range(3)] == list(expected)


def test_share_of_anchors_with_a_positive():
    text = Modality(torch.zeros(5, 2), torch.ones(5).bool(), torch.tensor([0, 0, 1, 2, 3]))
    image = Modality(
        torch.zeros(5, 2), torch.tensor([1, 1, 1, 1, 0]).bool(), torch.tensor([7, 7, 7, 8, -1])
    )
    batch = {"text": text, "image": image}
    # Text anchors go by image labels: 0, 1, 2 have one, 3 has none, 4 is no anchor.
    for name, expected in (("text", [3, 4]), ("image", [2, 4])):
        pairs = losses.find_pairs(training.other_labels(batch, name))
        assert pairs.count_anchors().tolist() == expected


# ---------------------------------------------------------------- training


CHANGES = {
    "tokenizer": "rqkmeans", "modalities": None, "codebook_size": 6,
    "levels": {"levels": 2, "contrastive_weights": (0.1, 0.1)},
    "shared_levels": 1, "fsq_levels": {"tokenizer": "fsq", "fsq_levels": (3, 3)},
    "latent_dim": 3, "projection": 5, "hidden": (9,), "epochs": 2, "batch_size": 20,
    "learning_rate": 2e-3, "weight_decay": 0.1, "squared_error": "sum", "rq_weight": 0.5,
    "commitment": 0.5, "gradient_estimator": "rotation", "contrastive_weights": (0.5,),
    "contrastive_positives": "one", "contrastive_side": "text", "residual_gradient": "cancelled",
    "align_weight": 0.7, "align_gradient": "codebooks", "align_levels": 1, "align_head": 3,
    "temperature": 0.2, "codebook_init": {"codebook_init": "normal", "codebook_update": "gradient"},
    "codebook_update": "gradient", "refit_every": 1,
    "ema_decay": {"codebook_update": "ema", "ema_decay": 0.5},
    "reseed_dead": {"codebook_update": "ema", "reseed_dead": False},
    "sinkhorn_epsilons": (0.1,), "sinkhorn_iterations": {"sinkhorn_epsilons": (0.1,),
    "sinkhorn_iterations": 1}, "min_perplexity_share": None, "seed": 1,
}  # fmt: skip
BASES = {
    "fsq_levels": {"tokenizer": "fsq", "fsq_levels": (2, 4)},
    "codebook_init": {"codebook_update": "gradient"},
    "ema_decay": {"codebook_update": "ema"},
    "reseed_dead": {"codebook_update": "ema"},
    "sinkhorn_iterations": {"sinkhorn_epsilons": (0.1,)},
}


@pytest.mark.parametrize("setting", [name for name, value in CHANGES.items() if value is not None])
def test_every_setting_changes_the_model(setting):
    """`modalities` and `min_perplexity_share` have tests of their own, on the stage."""
    live = replace(SMALL, contrastive_weights=(0.1, 0.1, 0.1), reseed_dead=True)
    catalogue = clumped() if setting == "reseed_dead" else planted()
    value = CHANGES[setting]
    changes = value if isinstance(value, dict) else {setting: value}
    base, changed = (
        state(resolved(replace(live, **settings)), catalogue)
        for settings in (BASES.get(setting, {}), changes)
    )
    assert not same(base, changed)


def test_every_setting_is_tried():
    assert set(CHANGES) == set(vars(SMALL))


def clumped():
    """All items but a few sit in one place, so that codewords die."""
    catalogue = planted()
    for data in catalogue.values():
        data.embedding_NE[8:] = data.embedding_NE[8] + 0.001 * data.embedding_NE[8:]
    return catalogue


def resolved(config):
    return sizes.settle(config, sizes.choose(config, {"text": 90}))


def test_the_same_seed_gives_the_same_model():
    assert same(state(SMALL), state(SMALL))


@pytest.mark.parametrize("update", ["refit", "gradient"])
def test_the_first_level_separates_planted_groups(update):
    catalogue = planted()
    config = replace(
        SMALL, codebook_size=GROUPS, epochs=30, learning_rate=0.02, codebook_update=update
    )
    trained = training.train(catalogue, config, CPU)
    codes, figures = evaluation.evaluate(trained, catalogue, config)
    for name in catalogue:
        first = codes[name][:, 0].reshape(-1, GROUPS)
        assert (first == first[0]).all() and len(set(first[0])) == GROUPS
        assert figures[f"{name}_perplexity_0"] == pytest.approx(GROUPS)
        assert figures[f"{name}_unexplained_variance_2"] < 0.2
        assert figures[f"{name}_anchors_with_positive"] == 1.0
    for term in ("text_reconstruction", "image_reconstruction"):
        assert trained.history[-1][term] < trained.history[0][term] / 3


def test_refitted_codewords_are_the_means_of_the_true_residuals_of_all_items():
    catalogue = planted()
    model = training.train(catalogue, SMALL, CPU).model
    vectors = {name: data.embedding_NE for name, data in catalogue.items()}
    present = {name: data.present_N for name, data in catalogue.items()}
    residual_ND = model.encode(vectors, present)["text"].latents_ND
    for codebook_MD in model.text.codebooks:
        codes_N = nearest_codes(residual_ND, codebook_MD)
        for code in codes_N.unique():
            mean_D = residual_ND[codes_N == code].mean(0)
            torch.testing.assert_close(codebook_MD[code].detach(), mean_D, atol=1e-4, rtol=1e-3)
        residual_ND = residual_ND - codebook_MD[codes_N].detach()


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named():
    with pytest.raises(UserError, match=r"text_rq.* epoch [12], step \d.*learning_rate"):
        training.train(planted(), replace(SMALL, learning_rate=1e30), CPU)


def test_fewer_vectors_than_codewords():
    catalogue = without_images(planted(20), *range(13))
    with pytest.raises(UserError, match=r"image_embeddings: 7 of 20 .*quantizer_codebook_size"):
        training.train(catalogue, SMALL, CPU)


@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_vectors_without_variance_or_not_finite_are_refused(value):
    catalogue = planted()
    text = catalogue["text"]._replace(embedding_NE=torch.full((90, 10), value))
    with pytest.raises(UserError, match=r"text_embeddings: the 90 vectors"):
        training.train(catalogue | {"text": text}, SMALL, CPU)


# ---------------------------------------------------------------- codebooks and their use


def test_kmeans_finds_planted_centres_whatever_the_chunks(monkeypatch):
    points_ND = torch.tensor([[0.0], [0.2], [10.0], [10.2], [50.0]])
    for chunk in (2, 100):
        monkeypatch.setattr(codebooks, "CHUNK", chunk)
        centres_MD = codebooks.kmeans(points_ND, 3, torch.Generator().manual_seed(0))
        assert sorted(centres_MD[:, 0].tolist()) == pytest.approx([0.1, 10.1, 50.0], abs=1e-5)


def test_an_empty_centre_takes_the_farthest_item(monkeypatch):
    points_ND = torch.tensor([[0.0], [1.0], [9.0]])
    monkeypatch.setattr(codebooks, "_spread_start", lambda *_: torch.tensor([[0.5], [100.0]]))
    centres_MD = codebooks.kmeans(points_ND, 2, torch.Generator())
    assert sorted(centres_MD[:, 0].tolist()) == [0.5, 9.0]


def test_dead_codewords_are_reseeded_and_live_ones_stay():
    spec = QuantizerSpec(
        text_dim=1, image_dim=0, latent_dim=1, hidden=(), levels=2, codebook_size=2
    )
    model = CrossModalQuantizer(spec)
    with torch.no_grad():
        model.text.codebooks[0].copy_(torch.tensor([[0.0], [100.0]]))
        model.text.codebooks[1].copy_(torch.tensor([[0.0], [0.5]]))
    latents = {"text": torch.tensor([[0.0], [0.5], [9.0]])}
    moved = codebooks.reseed_dead(model, latents, {"text": torch.ones(3).bool()})
    assert moved == {"text": 1}
    books = [book[:, 0].tolist() for book in model.text.codebooks]
    assert books == [[0.0, 9.0], [0.0, 0.5]]


def test_a_collapsed_codebook_fails_the_run():
    catalogue = planted()
    spec = QuantizerSpec(text_dim=10, image_dim=7, latent_dim=4, levels=3, codebook_size=8)
    model = CrossModalQuantizer(spec)
    with torch.no_grad():
        model.text.codebooks[1][1:] += 1000
    trained = training.Trained(model, [])
    config = replace(SMALL, min_perplexity_share=0.15)
    with pytest.raises(UserError, match=r"text level 1: perplexity 1\.0, .*100\.0% .*1\.2 of 8"):
        evaluation.evaluate(trained, catalogue, config)
    off = replace(config, min_perplexity_share=0.0)
    assert evaluation.evaluate(trained, catalogue, off).figures["text_perplexity_1"] == 1.0


# ---------------------------------------------------------------- the stage


def make_inputs(path, catalogue):
    index = np.arange(len(catalogue["text"].present_N), dtype=np.int32)
    given = {}
    labels = []
    for name, data in catalogue.items():
        present_N = data.present_N.numpy()
        status = np.where(present_N, "ok", "missing").tolist()
        columns = [index, vector_column(data.embedding_NE.numpy(), present_N), status]
        kind = schema.embeddings(data.embedding_NE.shape[1])
        given[f"{name}_embeddings"] = dataset(path / name, kind, columns)
        labels.append(pa.array(data.label_N.numpy().astype(np.int32), mask=~present_N))
    given["pseudo_labels"] = dataset(path / "labels", schema.PSEUDO_LABELS, [index, *labels])
    return stage.Inputs(**given)


def run(path, inputs, config=SMALL, **execution):
    outputs = stage.Outputs(
        latents=DatasetOutput(path / "latents"), quantizer=FolderOutput(path / "quantizer")
    )
    for output in vars(outputs).values():
        output.prepare()
    metrics = stage.run(config, inputs, outputs, stage.Execution(device="cpu", **execution))
    for output in vars(outputs).values():
        output.commit({})
    return Artifact.open(outputs.latents.path), outputs.quantizer.path, metrics


def test_the_stage_writes_codes_that_its_quantizer_repeats(tmp_path):
    catalogue = without_images(planted(), 3, 4)
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
    streamed, *_ = run(tmp_path / "b", inputs, resident_gib=0.0)
    assert resident.table().equals(streamed.table())


def test_inputs_of_two_catalogues_are_refused(tmp_path):
    inputs = make_inputs(tmp_path, planted())
    other = make_inputs(tmp_path / "other", planted(80))
    with pytest.raises(UserError, match=r"'text_embeddings': 90, .*'pseudo_labels': 80"):
        run(tmp_path, replace(inputs, pseudo_labels=other.pseudo_labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0, "epochs": 0}, "latent_dim is below 1; epochs is below 1"),
        ({"codebook_size": 40_000}, "16 bits"),
        ({"temperature": 0.0}, "temperature is not above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is not above 0"),
        ({"commitment": -0.1}, "commitment is negative"),
        ({"contrastive_weights": (-1.0,)}, "contrastive_weights has a negative"),
        ({"contrastive_weights": (0.1,) * 5}, "more numbers than there are levels, 4"),
        ({"hidden": (0,)}, "hidden"),
        ({"batch_size": 1}, "negatives"),
        ({"min_perplexity_share": 2.0}, "min_perplexity_share"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        stage.Config(**settings)


def test_main_is_light_to_import():
    code = "import sys, components.quantize.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src:."}).returncode == 0
