"""How codebooks start and follow: k-means, moving means, re-seeding, shared levels.

N items, D latent size, M codebook size.
"""

from dataclasses import replace

import pytest
import torch
from sklearn.cluster import KMeans

from components.quantize import codebooks, quantizer_training
from macrec.core.errors import UserError
from macrec.tokenizer.quantizer import CrossModalQuantizer, QuantizerSpec
from macrec.tokenizer.residual_quantization import Quantization, nearest_codes
from tests.planted import CPU, SMALL, normal, planted, untrained, without

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_dimensional(*books, shared=0, image=False):
    """A quantizer of one component with the given codebooks; the image has them times ten."""
    spec = QuantizerSpec(
        text_dim=1, image_dim=int(image), latent_dim=1, hidden=(), levels=len(books),
        codebook_size=len(books[0]), shared_levels=shared,
    )  # fmt: skip
    model = CrossModalQuantizer(spec)
    with torch.no_grad():
        for level, book in enumerate(books):
            model.text.codebooks[level].copy_(torch.tensor(book)[:, None])
            if image:
                model.image.codebooks[level].copy_(10 * torch.tensor(book)[:, None])
    return model


def books_of(part):
    return [book[:, 0].tolist() for book in part.codebooks]


def everyone(count, *names):
    return {name: torch.ones(count).bool() for name in names}


# ---------------------------------------------------------------- k-means


def test_kmeans_finds_planted_centres_whatever_the_chunks(monkeypatch):
    points_ND = torch.tensor([[0.0], [0.2], [10.0], [10.2], [50.0]])
    for chunk in (2, 100):
        monkeypatch.setattr(codebooks, "CHUNK", chunk)
        centres_MD = codebooks.kmeans(points_ND, 3, seeded())
        assert sorted(centres_MD[:, 0].tolist()) == pytest.approx([0.1, 10.1, 50.0], abs=1e-5)


@pytest.mark.parametrize("clumps", [16, 1])
def test_kmeans_is_about_as_good_as_that_of_sklearn(clumps):
    centres = 4 * normal(clumps, 6, seed=9)
    points_ND = (centres[torch.arange(600) % clumps] + normal(600, 6)).float()
    ours, reference = 0.0, 0.0
    for seed in range(4):
        centres_MD = codebooks.kmeans(points_ND, 16, seeded(seed))
        ours += float(torch.cdist(points_ND, centres_MD).amin(1).square().sum())
        reference += KMeans(16, n_init=1, random_state=seed).fit(points_ND.numpy()).inertia_
    assert ours < 1.05 * reference


def test_an_empty_centre_takes_the_farthest_item(monkeypatch):
    points_ND = torch.tensor([[0.0], [1.0], [9.0]])
    monkeypatch.setattr(codebooks, "_spread_start", lambda *_: torch.tensor([[0.5], [100.0]]))
    centres_MD = codebooks.kmeans(points_ND, 2, seeded())
    assert sorted(centres_MD[:, 0].tolist()) == [0.5, 9.0]


def test_kmeans_of_equal_points_is_finite():
    assert codebooks.kmeans(torch.ones(9, 2), 4, seeded()).unique().tolist() == [1.0]


@pytest.mark.parametrize("moment", ["start", "end"])
def test_codewords_are_the_means_of_the_true_residuals_of_all_items(moment):
    catalogue = without(planted(), "text", 4, 5)
    if moment == "start":
        model = untrained(catalogue, replace(SMALL, codebook_update="gradient")).model
    else:
        model = quantizer_training.train(catalogue, SMALL, CPU).model
    vectors = {name: data.embedding_NE for name, data in catalogue.items()}
    present = {name: data.present_N for name, data in catalogue.items()}
    for name, encoded in model.encode(vectors, present).items():
        residual_ND = encoded.latents_ND[present[name]]
        for codebook_MD in model.modality(name).codebooks:
            codes_N = nearest_codes(residual_ND, codebook_MD)
            assert len(codes_N.unique()) == 8
            for code in codes_N.unique():
                mean_D = residual_ND[codes_N == code].mean(0)
                torch.testing.assert_close(codebook_MD[code].detach(), mean_D, atol=1e-4, rtol=1e-3)
            residual_ND = residual_ND - codebook_MD[codes_N].detach()


def test_a_normal_start_does_not_look_at_the_items():
    config = replace(SMALL, codebook_init="normal", codebook_update="gradient")
    one, other = (untrained(planted(seed=n), config).model.text.codebooks[1] for n in (0, 1))
    assert torch.equal(one, other)
    assert float(one.detach().std()) == pytest.approx(0.1, rel=0.3)


# ---------------------------------------------------------------- moving means


def quantized(codes, residuals):
    return {
        "text": Quantization(
            torch.tensor(codes)[:, None], [torch.tensor(residuals)[:, None]], [], torch.zeros(0)
        )
    }


def test_moving_means_by_hand():
    model = one_dimensional([1.0, 5.0])
    means = codebooks.MovingMeans(model, decay=0.75, batch_size=8)  # counts 4, sums 4 and 20
    present = {"text": torch.tensor([True, True, True, False])}
    means.update(quantized([0, 0, 1, 1], [2.0, 4.0, 9.0, 1e6]), present)
    # counts 3 + 2/4 and 3 + 1/4; sums 3 + 6/4 and 15 + 9/4
    assert books_of(model.text)[0] == pytest.approx([4.5 / 3.5, 17.25 / 3.25])
    means.update(quantized([1, 1, 1, 1], [8.0, 8.0, 8.0, 8.0]), everyone(4, "text"))
    # counts 2.625 and 2.4375 + 1; sums 3.375 and 12.9375 + 8
    assert books_of(model.text)[0] == pytest.approx([3.375 / 2.625, 20.9375 / 3.4375])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_a_codeword_that_is_never_chosen_stays_and_nothing_overflows(decay):
    model = one_dimensional([1.0, 5.0])
    means = codebooks.MovingMeans(model, decay, batch_size=2)
    for _ in range(3000):
        means.update(quantized([0, 0], [2.0, 4.0]), everyone(2, "text"))
    chosen, other = books_of(model.text)[0]
    assert other == pytest.approx(5.0, rel=1e-4) and chosen == pytest.approx(3.0, rel=1e-4)


def test_moving_means_of_training_follow_residuals_not_gradients():
    catalogue = planted()
    config = replace(SMALL, codebook_update="ema", ema_decay=0.9, epochs=20, reseed_dead=False)
    trained = quantizer_training.train(catalogue, config, CPU)
    start = untrained(catalogue, config).model
    still = quantizer_training.train(catalogue, replace(config, ema_decay=1.0), CPU).model
    for name, part in trained.model.parts().items():
        for level, codebook_MD in enumerate(part.codebooks):
            assert not codebook_MD.requires_grad and codebook_MD.isfinite().all()
            before = start.modality(name).codebooks[level]
            torch.testing.assert_close(still.modality(name).codebooks[level], before)
            assert not torch.allclose(codebook_MD, before, atol=1e-3)


# ---------------------------------------------------------------- dead codewords


def test_dead_codewords_are_reseeded_and_live_ones_stay():
    model = one_dimensional([0.0, 100.0], [0.0, 0.5])
    latents = {"text": torch.tensor([[0.0], [0.5], [9.0], [77.0]])}
    present = {"text": torch.tensor([True, True, True, False])}
    assert codebooks.reseed_dead(model, latents, present) == {"text": 1}
    assert books_of(model.text) == [[0.0, 9.0], [0.0, 0.5]]


def test_a_dead_shared_codeword_takes_both_residuals_of_one_item():
    model = one_dimensional([0.0, 100.0], shared=1, image=True)
    latents = {
        "text": torch.tensor([[0.0], [9.0], [49.0]]),
        "image": torch.tensor([[0.0], [80.0], [7.0]]),
    }
    present = {"text": torch.ones(3).bool(), "image": torch.tensor([True, True, False])}
    assert codebooks.reseed_dead(model, latents, present) == {"text": 1, "image": 1}
    assert (books_of(model.text)[0], books_of(model.image)[0]) == ([0.0, 9.0], [0.0, 80.0])


def test_dead_codewords_are_never_moved_to_a_row_that_is_not_there():
    model = one_dimensional([0.0, 100.0, 200.0], shared=1, image=True)
    latents = {"text": torch.tensor([[0.0], [9.0]]), "image": torch.tensor([[0.0], [80.0]])}
    present = {"text": torch.ones(2).bool(), "image": torch.tensor([True, False])}
    codebooks.reseed_dead(model, latents, present)  # one item has both, two codewords are dead
    assert books_of(model.image)[0] == [0.0, 0.0, 2000.0]


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_reseeding_brings_codebooks_back_to_life(update):
    catalogue = planted()
    used = {}
    for reseed in (True, False):
        config = replace(
            SMALL, codebook_init="normal", codebook_update=update, reseed_dead=reseed, epochs=2,
            refit_every=1, learning_rate=1e-9, ema_decay=1.0,
        )  # fmt: skip
        trained = quantizer_training.train(catalogue, config, CPU)
        encoded = trained.model.encode(
            {name: data.embedding_NE for name, data in catalogue.items()},
            {name: data.present_N for name, data in catalogue.items()},
        )
        used[reseed] = len(encoded["text"].codes_NL[:, 0].unique())
        assert ("text_codewords_reseeded" in trained.history[0]) == reseed
    assert used[True] >= 7 and used[False] <= 3


# ---------------------------------------------------------------- shared levels


def test_shared_levels_have_one_code_and_the_levels_below_their_own():
    catalogue = without(without(planted(), "image", 3, 4), "text", 7)
    config = replace(SMALL, shared_levels=2)
    model = quantizer_training.train(catalogue, config, CPU).model
    vectors = {name: data.embedding_NE for name, data in catalogue.items()}
    present = {name: data.present_N for name, data in catalogue.items()}
    encoded = model.encode(vectors, present)
    both = present["text"] & present["image"]
    text, image = (encoded[name].codes_NL[both] for name in ("text", "image"))
    assert torch.equal(text[:, :2], image[:, :2])
    assert not torch.equal(text[:, 2], image[:, 2])
    alone = model.text.quantize(encoded["text"].latents_ND[[3, 4]]).codes_BL
    assert torch.equal(encoded["text"].codes_NL[[3, 4]], alone)
    other = model.image.quantize(encoded["image"].latents_ND[[7]]).codes_BL
    assert torch.equal(encoded["image"].codes_NL[[7]], other)


@pytest.mark.parametrize("chunk", [2, 100])
def test_a_shared_refit_gives_the_means_of_both_spaces_over_items_that_have_both(
    monkeypatch, chunk
):
    monkeypatch.setattr(codebooks, "CHUNK", chunk)
    model = one_dimensional([0.0, 0.0], [0.0, 0.0], shared=1, image=True)
    # Text alone would part 0, 1 | 10, 11; the image, ten times as wide, parts the odd items.
    latents = {
        "text": torch.tensor([[0.0], [1.0], [10.0], [11.0], [555.0]]),
        "image": torch.tensor([[0.0], [200.0], [20.0], [220.0], [7.0]]),
    }
    present = {"text": torch.ones(5).bool(), "image": torch.arange(5) < 4}
    codebooks.refit(model, latents, present, seeded())
    pairs = sorted(zip(books_of(model.text)[0], books_of(model.image)[0], strict=True))
    assert pairs == [(pytest.approx(5.0), pytest.approx(10.0)), (6.0, pytest.approx(210.0))]
    # What these leave: -5, -5, 5, 5 and, of the item with text alone, 555 - 6.
    assert sorted(books_of(model.text)[1]) == pytest.approx([0.0, 549.0])


def test_a_shared_refit_averages_over_components():
    """A wide space must not outvote a narrow one: the same split whatever its width."""
    narrow = normal(60, 1).float()
    splits = []
    for width in (1, 50):
        spec = QuantizerSpec(
            text_dim=1, image_dim=width, tokenizer="rqkmeans", levels=1, codebook_size=2,
            shared_levels=1,
        )  # fmt: skip
        model = CrossModalQuantizer(spec)
        wide = normal(60, 1, seed=1).float().expand(-1, width)
        latents, present = {"text": narrow, "image": wide}, everyone(60, "text", "image")
        codebooks.refit(model, latents, present, seeded())
        books = [model.modality(name).codebooks[0][:, :1].detach() for name in latents]
        splits.append(torch.cat(books, 1).sort(0).values)
    torch.testing.assert_close(splits[0], splits[1])


def test_too_few_items_with_both_for_a_shared_level():
    catalogue = without(planted(20), "image", *range(10))
    catalogue = without(catalogue, "text", *range(15, 20))
    with pytest.raises(UserError, match=r"5 items have a text and an image vector.*shared_levels"):
        quantizer_training.train(catalogue, replace(SMALL, shared_levels=1), CPU)
