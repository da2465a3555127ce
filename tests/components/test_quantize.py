import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.quantize import codebooks, evaluation, training
from components.quantize import main as stage
from components.quantize.training import Catalogue, Modality
from macrec import schema
from macrec.arrays import codes_matrix, vector_column
from macrec.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.errors import UserError
from macrec.rqvae import CrossModalQuantizer, QuantizerSpec, load_quantizer, nearest_codes
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

    return Catalogue(modality(10), modality(7))


def without_images(catalogue, *rows):
    present_N = catalogue.image.present_N.clone()
    label_N = catalogue.image.label_N.clone()
    present_N[list(rows)], label_N[list(rows)] = False, -1
    image = catalogue.image._replace(present_N=present_N, label_N=label_N)
    return catalogue._replace(image=image)


def quantizer(catalogue, config=SMALL):
    return training._Trainer(catalogue, config, CPU).model


def state(config, catalogue=None):
    model = training.train(catalogue or planted(), config, CPU).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in one)


# ---------------------------------------------------------------- losses of a batch


def test_positives_come_from_the_labels_of_the_other_modality():
    catalogue = planted()
    config = replace(SMALL, contrastive_weights=(1.0, 1.0, 1.0), align_weight=0.0)
    model = quantizer(catalogue, config)
    before = training.loss_terms(model, catalogue, config)
    other = catalogue.text._replace(label_N=catalogue.text.label_N.roll(1) // 2)
    after = training.loss_terms(model, catalogue._replace(text=other), config)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"image_contrastive_{level}" for level in range(3)}


@pytest.mark.parametrize("align", ["codebooks", "encoder", "both"])
def test_what_stands_in_a_missing_row_influences_nothing(align):
    catalogue = without_images(planted(), 0, 17)
    config = replace(SMALL, contrastive_weights=(0.5, 0.5, 0.5), align_gradient=align)
    model = quantizer(catalogue, config)
    results = []
    for garbage in (0.0, 1e6, float("nan")):
        vectors = catalogue.image.embedding_NE.clone()
        vectors[[0, 17]] = garbage
        changed = catalogue._replace(image=catalogue.image._replace(embedding_NE=vectors))
        model.zero_grad()
        terms = training.loss_terms(model, changed, config)
        torch.stack(list(terms.values())).sum().backward()
        results.append([*terms.values(), *(p.grad.clone() for p in model.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_item_without_picture_is_as_if_only_its_text_were_there():
    catalogue = planted()
    config = replace(SMALL, contrastive_weights=(0.5, 0.5, 0.5))
    model = quantizer(catalogue, config)
    masked = training.loss_terms(model, without_images(catalogue, *range(60, 90)), config)
    first = Catalogue(*(data.take(torch.arange(60), CPU) for data in catalogue))
    alone = training.loss_terms(model, first, config)
    for term in masked:
        if term not in ("text_reconstruction", "text_rq"):
            torch.testing.assert_close(masked[term], alone[term])


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), (0, 0, 0)), ((0.1,), (0, 0, 0.1)), ((1, 2), (0, 1, 2)), ((1, 2, 3), (1, 2, 3))],
)
def test_a_short_tuple_of_weights_belongs_to_the_last_levels(given, expected):
    config = replace(SMALL, contrastive_weights=given)
    assert training.level_weights(config) == expected
    weights = training.term_weights(config)
    assert [weights.get(f"text_contrastive_{n}", 0) for n in range(3)] == list(expected)


def test_share_of_anchors_with_a_positive():
    text = Modality(torch.zeros(5, 2), torch.ones(5).bool(), torch.tensor([0, 0, 1, 2, 3]))
    image = Modality(
        torch.zeros(5, 2), torch.tensor([1, 1, 1, 1, 0]).bool(), torch.tensor([7, 7, 7, 8, -1])
    )
    # Text anchors go by image labels: 0, 1, 2 have one, 3 has none, 4 is no anchor.
    assert training.positive_share(Catalogue(text, image)).tolist() == [[3, 4], [2, 4]]


# ---------------------------------------------------------------- training


CHANGES = {
    "codebook_size": 6, "levels": 2, "latent_dim": 3, "projection": 5, "hidden": (9,), "epochs": 2,
    "batch_size": 20, "learning_rate": 2e-3, "weight_decay": 0.1, "squared_error": "sum",
    "commitment": 0.5, "contrastive_weights": (0.5,), "align_weight": 0.7,
    "align_gradient": "codebooks", "temperature": 0.2, "codebook_update": "gradient",
    "refit_every": 1, "seed": 1,
}  # fmt: skip


def test_every_setting_changes_the_model():
    base = state(SMALL)
    assert set(CHANGES) | {"min_perplexity_share"} == set(vars(SMALL))
    unchanged = [n for n, v in CHANGES.items() if same(base, state(replace(SMALL, **{n: v})))]
    assert unchanged == []


def test_the_same_seed_gives_the_same_model():
    assert same(state(SMALL), state(SMALL))


@pytest.mark.parametrize("update", ["refit", "gradient"])
def test_the_first_level_separates_planted_groups(update):
    catalogue = planted()
    config = replace(
        SMALL, codebook_size=GROUPS, epochs=30, learning_rate=0.02, codebook_update=update
    )
    trained = training.train(catalogue, config, CPU)
    for name, data in zip(("text", "image"), catalogue, strict=True):
        encoded, figures = evaluation.evaluate(trained, data, name, config)
        first = encoded.codes_NL[:, 0].reshape(-1, GROUPS)
        assert (first == first[0]).all() and len(first[0].unique()) == GROUPS
        assert figures[f"{name}_perplexity_0"] == pytest.approx(GROUPS)
        assert figures[f"{name}_unexplained_variance"] < 0.2
        assert figures[f"{name}_anchors_with_positive"] == 1.0
    for term in ("text_reconstruction", "image_reconstruction"):
        assert trained.history[-1][term] < trained.history[0][term] / 3


def test_refitted_codewords_are_the_means_of_the_true_residuals_of_all_items():
    catalogue = planted()
    model = training.train(catalogue, SMALL, CPU).model
    residual_ND = model.text.encode(catalogue.text.embedding_NE).latents_ND
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
    text = catalogue.text._replace(embedding_NE=torch.full((90, 10), value))
    with pytest.raises(UserError, match=r"text_embeddings: the 90 vectors"):
        training.train(catalogue._replace(text=text), SMALL, CPU)


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
    books = torch.nn.ParameterList([torch.tensor([[0.0], [100.0]]), torch.tensor([[0.0], [0.5]])])
    assert codebooks.reseed_dead(books, torch.tensor([[0.0], [0.5], [9.0]])) == 1
    assert [book[:, 0].tolist() for book in books] == [[0.0, 9.0], [0.0, 0.5]]


def test_usage_by_hand():
    codes_NL = torch.tensor([[0, 0], [0, 0], [1, 2], [1, 3]])
    figures = evaluation.usage(codes_NL, 4)
    assert figures == pytest.approx(
        {
            "utilisation_0": 0.5, "perplexity_0": 2.0, "largest_bucket_0": 0.5,
            "utilisation_1": 0.75, "perplexity_1": 2 * 2**0.5, "largest_bucket_1": 0.5,
            "collision_rate": 0.25, "shared_code_share": 0.5,
        }
    )  # fmt: skip


def test_a_collapsed_codebook_fails_the_run():
    catalogue = planted()
    spec = QuantizerSpec(text_dim=10, image_dim=7, latent_dim=4, levels=3, codebook_size=8)
    model = CrossModalQuantizer(spec)
    with torch.no_grad():
        model.text.codebooks[1][1:] += 1000
    trained = training.Trained(model, [{"text_anchors_with_positive": 1.0}])
    config = replace(SMALL, min_perplexity_share=0.15)
    with pytest.raises(UserError, match=r"text .*level 1: perplexity 1\.0, .*100\.0% .*1\.2 of 8"):
        evaluation.evaluate(trained, catalogue.text, "text", config)
    off = replace(config, min_perplexity_share=0.0)
    assert evaluation.evaluate(trained, catalogue.text, "text", off)[1]["text_perplexity_1"] == 1.0


# ---------------------------------------------------------------- the stage


def make_inputs(path, catalogue):
    index = np.arange(len(catalogue.text.present_N), dtype=np.int32)
    given = {}
    labels = []
    for name, data in zip(("text", "image"), catalogue, strict=True):
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
    assert latents.schema.equals(schema.latents(4)) and latents.rows == 90
    rows = latents.table().to_pylist()
    assert [r["item_index"] for r in rows] == list(range(90))
    missing = [r["item_index"] for r in rows if r["image_codes"] is None]
    assert missing == [3, 4] == [r["item_index"] for r in rows if r["image_latent"] is None]
    assert not any(r["text_codes"] is None or r["text_latent"] is None for r in rows)
    model = load_quantizer(folder)
    present = catalogue.image.present_N
    again = model.image.encode(catalogue.image.embedding_NE[present])
    codes_NL = codes_matrix(latents, "image_codes")
    assert codes_NL[present.numpy()].tolist() == again.codes_NL.tolist()
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
        ({"codebook_size": 0, "epochs": 0}, "codebook_size is below 1; epochs is below 1"),
        ({"codebook_size": 40_000}, "16 bits"),
        ({"temperature": 0.0}, "temperature is not above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is not above 0"),
        ({"commitment": -0.1}, "commitment is negative"),
        ({"contrastive_weights": (-1.0,)}, "negative weight"),
        ({"contrastive_weights": (0.1,) * 5}, "more weights than there are levels, 4"),
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
