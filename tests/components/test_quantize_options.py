"""The settings of the quantizer: that each is live, what the tokenizers are, how sizes are chosen.

N items, L levels, M codebook size.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from components.quantize import evaluation, objective, quantizer_training, sizes
from components.quantize.spec import MAX_CODEBOOK, Settings
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import codes_matrix
from macrec.tokenizer.quantizer import CrossModalQuantizer, QuantizerSpec, load_quantizer
from macrec.tokenizer.residual_quantization import grid_codebooks
from tests.planted import CPU, SMALL, make_inputs, planted, run, settled, untrained, without

pytestmark = pytest.mark.usefixtures("one_thread")


def state(config, catalogue):
    model = quantizer_training.train(catalogue, settled(config), CPU).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ---------------------------------------------------------------- every setting is live


CHANGES = {
    "mode": None,
    "tokenizer": "rqkmeans", "modalities": None, "history_weight": None, "codebook_size": 6,
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
    "sinkhorn_iterations": 1}, "precision": "bfloat16", "min_perplexity_share": None, "seed": 1,
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
    """`modalities` and `min_perplexity_share` have tests of their own below, `history_weight` is
    tried with histories (test_quantize.py), `mode` in test_quantize_frozen.py."""
    live = replace(SMALL, contrastive_weights=(0.1, 0.1, 0.1), reseed_dead=True)
    catalogue = clumped() if setting == "reseed_dead" else planted()
    value = CHANGES[setting]
    changes = value if isinstance(value, dict) else {setting: value}
    one, other = (
        state(replace(live, **settings), catalogue)
        for settings in (BASES.get(setting, {}), changes)
    )
    assert one.keys() != other.keys() or any(
        one[n].shape != other[n].shape or not torch.equal(one[n], other[n]) for n in one
    )


def test_every_setting_is_tried():
    assert set(CHANGES) == set(vars(SMALL))


def clumped():
    """All items but a few sit in one place, so that codewords die."""
    catalogue = planted()
    for data in catalogue.values():
        data.embedding_NE[8:] = data.embedding_NE[8] + 0.001 * data.embedding_NE[8:]
    return catalogue


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0, "epochs": 0}, "latent_dim=0.*epochs=0"),
        ({"codebook_size": 40_000}, "32,?768"),
        ({"codebook_size": 1}, "codebook_size=1: should be at least 2"),
        ({"tokenizer": "fsq", "fsq_levels": (200, 200)}, "32,?768"),
        ({"tokenizer": "fsq", "fsq_levels": (1, 9)}, "fsq_levels=1"),
        ({"tokenizer": "fsq"}, "fsq_levels and tokenizer=fsq require each other"),
        ({"fsq_levels": (3, 3)}, "fsq_levels and tokenizer=fsq require each other"),
        ({"tokenizer": "fsq", "fsq_levels": (3, 3), "align_gradient": "codebooks"}, "follow a gra"),
        ({"codebook_update": "ema", "align_gradient": "codebooks"}, "follow a gradient"),
        ({"shared_levels": 1, "modalities": "text"}, "shared_levels needs modalities=both"),
        ({"shared_levels": 5}, "shared_levels=5 is above levels=4"),
        ({"align_levels": 5}, "align_levels=5 is above levels=4"),
        ({"sinkhorn_epsilons": (0.1,) * 5}, "sinkhorn_epsilons has more numbers"),
        ({"sinkhorn_epsilons": (-0.1,)}, "sinkhorn_epsilons=-0.1"),
        ({"ema_decay": 1.5}, "ema_decay=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"commitment": -0.1}, "commitment=-0.1"),
        ({"contrastive_weights": (-1.0,)}, "contrastive_weights=-1.0"),
        ({"contrastive_weights": (0.1,) * 5}, "more numbers than levels=4"),
        ({"hidden": (0,)}, "hidden"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"min_perplexity_share": 2.0}, "min_perplexity_share"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Settings(**settings)


# ---------------------------------------------------------------- codes while training


def used(codes_N):
    """The number of codewords in even use."""
    share = torch.bincount(codes_N) / len(codes_N)
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def test_sinkhorn_balances_the_levels_that_have_an_epsilon_and_only_in_training():
    catalogue = planted()
    config = replace(
        SMALL, codebook_init="normal", codebook_update="gradient", sinkhorn_epsilons=(0.01, 0.0)
    )
    model = untrained(catalogue, config).model
    balanced, nearest = (
        objective.forward(model, catalogue, config, training=on)["text"].quantized.codes_BL
        for on in (True, False)
    )
    assert torch.equal(balanced[:, 0], nearest[:, 0])
    assert used(balanced[:, 1]) > 7.5 > 6 > used(nearest[:, 1])
    encoded = model.encode(
        {name: data.embedding_NE for name, data in catalogue.items()},
        {name: data.present_N for name, data in catalogue.items()},
    )
    assert torch.equal(encoded["text"].codes_NL, nearest)


# ---------------------------------------------------------------- tokenizers


def test_rqkmeans_is_residual_kmeans_on_the_vectors_themselves():
    catalogue = without(planted(), "text", 5, 6)
    config = replace(SMALL, tokenizer="rqkmeans")
    trained = quantizer_training.train(catalogue, config, CPU)
    assert trained.history == []
    vectors = {name: data.embedding_NE for name, data in catalogue.items()}
    present = {name: data.present_N for name, data in catalogue.items()}
    figures = evaluation.evaluate(trained, catalogue, config).figures
    for name, encoded in trained.model.encode(vectors, present).items():
        part = trained.model.modality(name)
        assert {key.split(".")[0] for key, _ in part.named_parameters()} == {"codebooks"}
        given = vectors[name][present[name]].double().numpy()
        centred = given - given.mean(0)
        residual = centred / math.sqrt(centred.var())
        np.testing.assert_allclose(encoded.latents_ND[present[name]], residual, atol=1e-5)
        for level in range(3):
            codebook = part.codebooks[level].detach().double().numpy()
            codes = pairwise_distances_argmin(residual, codebook)
            assert encoded.codes_NL[present[name], level].tolist() == codes.tolist()
            reference = KMeans(8, n_init=4, random_state=0).fit(residual).inertia_
            residual = residual - codebook[codes]
            assert (residual**2).sum() < 1.15 * reference
            unexplained = figures[f"{name}_unexplained_variance_{level}"]
            assert unexplained == pytest.approx((residual**2).mean(), rel=1e-4)


def test_fsq_trains_an_encoder_on_a_grid_that_stays():
    catalogue = planted()
    config = replace(SMALL, tokenizer="fsq", fsq_levels=(4, 3), epochs=30, learning_rate=0.02)
    config = settled(config)
    assert (config.codebook_size, config.latent_dim) == (12, 2)
    trained = quantizer_training.train(catalogue, config, CPU)
    for part in trained.model.parts().values():
        for book, grid_MD in zip(part.codebooks, grid_codebooks((4, 3), 3), strict=True):
            assert torch.equal(book, grid_MD)
        latent_ND = part.encoder(20 * torch.randn(50, part.dim))
        assert latent_ND.abs().max() <= 1 and latent_ND.shape == (50, 2)
    for name in catalogue:
        error = f"{name}_reconstruction"
        assert trained.history[-1][error] < trained.history[0][error] / 2


@pytest.mark.parametrize(
    ("settings", "dims"),
    [
        ({"tokenizer": "rqkmeans"}, (10, 7)),
        ({"tokenizer": "rqkmeans", "shared_levels": 1}, (10, 7)),
        ({"tokenizer": "fsq", "fsq_levels": (3, 3)}, (2, 2)),
        ({"shared_levels": 2}, (4, 4)),
    ],
)
def test_the_stage_writes_every_kind_of_quantizer(tmp_path, settings, dims):
    catalogue = without(without(planted(), "image", 3, 4), "text", 8)
    config = replace(SMALL, **settings)
    latents, folder, metrics = run(tmp_path, make_inputs(tmp_path, catalogue), config)
    assert latents.schema.equals(schema.latents(*dims))
    assert all(math.isfinite(value) for value in metrics.values())
    model = load_quantizer(folder)
    vectors = {name: data.embedding_NE for name, data in catalogue.items()}
    present = {name: data.present_N for name, data in catalogue.items()}
    for name, encoded in model.encode(vectors, present).items():
        codes_NL = codes_matrix(latents, f"{name}_codes")
        expected = encoded.codes_NL.where(present[name][:, None], -1)
        assert codes_NL.tolist() == expected.tolist()
    if "fsq" not in settings.values():
        assert metrics["codebook_size"] == 8 and metrics["levels"] == 3


# ---------------------------------------------------------------- one modality


@pytest.mark.parametrize(("name", "other"), [("text", "image"), ("image", "text")])
@pytest.mark.parametrize("reason", ["setting", "no vectors"])
def test_one_modality_alone(tmp_path, name, other, reason):
    catalogue, config = planted(), SMALL
    if reason == "setting":
        config = replace(config, modalities=name)
    else:
        catalogue = without(catalogue, other, *range(90))
    latents, folder, metrics = run(tmp_path, make_inputs(tmp_path, catalogue), config)
    rows = latents.table().to_pylist()
    assert all(row[f"{other}_codes"] is None and row[f"{other}_latent"] is None for row in rows)
    assert not any(row[f"{name}_codes"] is None for row in rows)
    assert metrics[f"{name}_items"] == 90
    assert not [figure for figure in metrics if figure.startswith(f"{other}_")]
    assert list(load_quantizer(folder).parts()) == [name]
    last = json.loads((folder / "history.json").read_text())["epochs"][-1]
    terms = {key for key in last if key.startswith(("text", "image", "align"))}
    assert terms == {f"{name}_reconstruction", f"{name}_rq"}


@pytest.mark.parametrize("modalities", ["both", "image"])
def test_no_vectors_at_all(tmp_path, modalities):
    catalogue = without(planted(), "image", *range(90))
    if modalities == "both":
        catalogue = without(catalogue, "text", *range(90))
    inputs = make_inputs(tmp_path, catalogue)
    with pytest.raises(UserError, match=r"none of 90 items has a .*image vector"):
        run(tmp_path, inputs, replace(SMALL, modalities=modalities))


# ---------------------------------------------------------------- a working codebook


@pytest.mark.case(35)
def test_a_collapsed_codebook_fails_the_run():
    catalogue = planted()
    spec = QuantizerSpec(text_dim=10, image_dim=7, latent_dim=4, levels=3, codebook_size=8)
    model = CrossModalQuantizer(spec)
    with torch.no_grad():
        model.text.codebooks[1][1:] += 1000
    trained = quantizer_training.TrainedQuantizer(model, [])
    config = replace(SMALL, min_perplexity_share=0.15)
    with pytest.raises(UserError, match=r"text level 1: perplexity 1\.0, .*100\.0% .*1\.2 of 8"):
        evaluation.evaluate(trained, catalogue, config)
    # The floor is a share of the codebook, and 1 of 8 is not below 0.125.
    for floor in (0.0, 0.125):
        passed = replace(config, min_perplexity_share=floor)
        figures = evaluation.evaluate(trained, catalogue, passed).figures
        assert figures["text_perplexity_1"] == 1.0


# ---------------------------------------------------------------- sizes


AUTO = replace(SMALL, codebook_size=0, levels=0)


@pytest.mark.parametrize(
    ("items", "codebook_size", "levels"),
    [
        (3, 2, 6), (5, 4, 4), (20, 8, 3), (300, 16, 4), (704, 32, 3), (1585, 32, 3), (6250, 64, 3),
        (20_000, 128, 3), (1_000_000, 1024, 3), (10_000_000, 4096, 3), (10**11, MAX_CODEBOOK, 3),
    ],
)  # fmt: skip
def test_sizes_by_the_number_of_items(items, codebook_size, levels):
    chosen = sizes.choose(AUTO, {"text": items})
    assert (chosen.codebook_size, chosen.levels) == (codebook_size, levels)
    assert chosen.codebook_size**chosen.levels >= 16 * items
    assert chosen.codebook_size <= min(items, MAX_CODEBOOK)
    for number in (f"{codebook_size} codewords", f"{levels} levels", f"{items:,} items"):
        assert number in chosen.reason


def test_the_scarcer_modality_sets_the_codebook_and_the_richer_the_levels():
    chosen = sizes.choose(AUTO, {"text": 1_000_000, "image": 300})
    assert chosen[:2] == (16, 6)  # 16 ** 6 is the first power above 16 million
    assert "300 items" in chosen.reason and "1,000,000 items" in chosen.reason


@pytest.mark.parametrize(
    ("settings", "expected", "reason"),
    [
        ({"codebook_size": 48, "levels": 2}, (48, 2), "as set"),
        ({"codebook_size": 48}, (48, 3), "3 levels, which offer 18 codes"),
        ({"levels": 2}, (64, 2), "64 codewords"),
        ({"tokenizer": "fsq", "fsq_levels": (8, 5), "levels": 2}, (40, 2), "as set"),
        ({"tokenizer": "fsq", "fsq_levels": (2, 2)}, (4, 9), "9 levels"),
    ],
)
def test_sizes_that_are_set_stay(settings, expected, reason):
    config = replace(AUTO, contrastive_weights=(0.1, 0.1), **settings)
    chosen = sizes.choose(config, {"text": 6_100, "image": 6_000})
    assert chosen[:2] == expected and reason in chosen.reason
    assert ("codewords" in chosen.reason) == (
        "codebook_size" not in settings and "fsq_levels" not in settings
    )
    settled_config = sizes.settle(config, chosen)
    assert (settled_config.codebook_size, settled_config.levels) == expected
    untouched = vars(config).keys() - {"codebook_size", "levels", "latent_dim"}
    assert all(getattr(settled_config, name) == getattr(config, name) for name in untouched)
    assert settled_config.latent_dim == (2 if config.fsq_levels else 4)


def test_by_default_the_codebook_suits_a_small_catalogue():
    """256 codewords would be more than the 239 items."""
    config = settled(Settings(), 239)
    assert (config.codebook_size, config.levels) == (16, 4)


def test_weights_for_more_levels_than_are_chosen_are_refused():
    config = replace(AUTO, contrastive_weights=(0.1,) * 4)
    with pytest.raises(UserError, match=r"contrastive_weights has more numbers than levels=3"):
        sizes.settle(config, sizes.choose(config, {"text": 704}))


def test_the_stage_reports_the_sizes_it_chose(tmp_path):
    catalogue = without(planted(), "image", *range(26))
    latents, folder, metrics = run(tmp_path, make_inputs(tmp_path, catalogue), AUTO)
    # The root of 64 pictures is 8; 8 ** 4 is the first power above 16 * 90.
    assert (metrics["codebook_size"], metrics["levels"]) == (8, 4)
    assert codes_matrix(latents, "text_codes").shape == (90, 4)
    history = json.loads((folder / "history.json").read_text())
    assert "8 codewords" in history["sizes"] and "64 items" in history["sizes"]
    assert "4 levels" in history["sizes"] and "90 items" in history["sizes"]
    assert (history["final"]["codebook_size"], history["final"]["levels"]) == (8, 4)
