import json
from dataclasses import replace

import pytest
import torch

from macrec.core.errors import UserError
from macrec.tokenizer.quantizer import CrossModalQuantizer, QuantizerSpec, load_quantizer

LEVELS = 3
SPEC = QuantizerSpec(
    text_dim=7, image_dim=5, latent_dim=4, hidden=(6,), levels=LEVELS, codebook_size=8
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encode(model, text, image, **options):
    present = torch.ones(len(text), dtype=torch.bool)
    vectors, there = {"text": text, "image": image}, {"text": present, "image": present}
    return model.encode(vectors, there, **options)


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (CrossModalQuantizer(SPEC, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["text.encoder.0.weight"], other["text.encoder.0.weight"])


def test_the_shapes_of_the_paper():
    spec = QuantizerSpec(text_dim=9, image_dim=9, projection=7, hidden=(6, 5), latent_dim=4)
    text = CrossModalQuantizer(spec).text
    layers = [
        [m.out_features for m in part if isinstance(m, torch.nn.Linear)]
        for part in (text.encoder, text.decoder)
    ]
    assert layers == [[7, 6, 5, 4], [5, 6, 7, 9]]
    assert [type(m).__name__ for m in text.encoder][:2] == ["Linear", "Linear"]  # a linear map


def test_a_tokenizer_decides_what_a_latent_is():
    vectors = 3 * normal(50, 7).float()
    latents = {}
    for tokenizer in ("rqvae", "rqkmeans", "fsq"):
        part = CrossModalQuantizer(replace(SPEC, tokenizer=tokenizer)).text
        latents[tokenizer] = part.encoder(part.normalize(10 * vectors)).detach()
        assert part.decoder(latents[tokenizer]).shape == (50, 7)
        assert part.codebooks[0].shape == (8, part.latent_dim)
    assert torch.equal(latents["rqkmeans"], 10 * vectors)
    torch.testing.assert_close(latents["fsq"], latents["rqvae"].tanh())
    assert float(latents["rqvae"].abs().max()) > 1


def test_normalising_takes_the_mean_away_and_divides_by_one_number():
    part = CrossModalQuantizer(SPEC).text
    part.mean_E.copy_(torch.arange(7.0))
    part.scale.fill_(4.0)
    given = torch.full((2, 7), 8.0, dtype=torch.float16)
    expected = (8 - torch.arange(7.0)) / 4
    assert torch.equal(part.normalize(given), expected.expand(2, 7))


def test_codes_of_an_item_depend_on_no_other_item_and_on_no_missing_vector():
    text, image = normal(12, 7), normal(12, 5, seed=1)
    image[4:] = torch.nan
    for shared in (0, 2):
        model = CrossModalQuantizer(replace(SPEC, shared_levels=shared))
        here = {"text": torch.ones(12).bool(), "image": torch.arange(12) < 4}
        whole = model.encode({"text": text, "image": image}, here)
        for row in (2, 7):
            one = model.encode(
                {"text": text[[row]], "image": image[[row]]},
                {name: present[[row]] for name, present in here.items()},
            )
            assert torch.equal(one["text"].codes_NL[0], whole["text"].codes_NL[row])
            if row < 4:
                assert torch.equal(one["image"].codes_NL[0], whole["image"].codes_NL[row])
        same = whole["text"].codes_NL[:4] == whole["image"].codes_NL[:4]
        assert same[:, :shared].all() and not same[:, shared:].all()


def test_encoding_does_not_depend_on_the_batch_size():
    model = CrossModalQuantizer(SPEC)
    model.text.mean_E += 1
    model.text.scale.fill_(2.0)
    text, image = normal(12, 7), normal(12, 5, seed=1)
    whole, batched = encode(model, text, image), encode(model, text, image, rows=5)
    for name in ("text", "image"):
        torch.testing.assert_close(whole[name].latents_ND, batched[name].latents_ND)
        assert torch.equal(whole[name].codes_NL, batched[name].codes_NL)
    expected = model.text.encoder((text - 1) / 2).detach()
    torch.testing.assert_close(whole["text"].latents_ND, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": "rqkmeans", "shared_levels": 1},
        {"tokenizer": "fsq", "codebook_size": 9, "latent_dim": 2},
        {"image_dim": 0},
        {"text_dim": 0, "projection": 3},
        {"hidden": ()},
    ],
)
def test_every_kind_is_saved_and_loaded(tmp_path, changes):
    spec = replace(SPEC, **changes)
    saved = CrossModalQuantizer(spec, seed=5)
    saved.save(tmp_path)
    loaded = load_quantizer(tmp_path)
    assert loaded.spec == spec and loaded.parts().keys() == spec.dims.keys()
    state = loaded.state_dict()
    assert state.keys() == saved.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in saved.state_dict().items())


def test_save_and_load(tmp_path):
    saved = CrossModalQuantizer(SPEC, seed=5)
    saved.text.mean_E += 1.5
    saved.image.scale.fill_(7.0)
    saved.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "codebooks.safetensors", "config.json", "model.safetensors"
    ]  # fmt: skip
    loaded = load_quantizer(tmp_path)
    assert loaded.spec == SPEC and not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in saved.state_dict().items())
    vectors = torch.ones(2, 7), torch.ones(2, 5)
    one, other = encode(loaded, *vectors), encode(saved, *vectors)
    assert torch.equal(one["text"].codes_NL, other["text"].codes_NL)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder, config: (folder / "config.json").unlink(),
        lambda folder, config: (folder / "config.json").write_text("{"),
        lambda folder, config: (folder / "config.json").write_text("[]"),
        lambda folder, config: (folder / "codebooks.safetensors").unlink(),
        lambda folder, config: (folder / "model.safetensors").write_bytes(b"\x00" * 20),
        lambda folder, config: rewrite(folder, config | {"format": "other"}),
        lambda folder, config: rewrite(folder, config | {"levels": 2}),
        lambda folder, config: rewrite(folder, config | {"unknown": 2}),
        lambda folder, config: rewrite(folder, config | {"codebook_size": 10**12}),
    ],
)
def test_a_torn_or_foreign_folder_is_refused(tmp_path, damage):
    CrossModalQuantizer(SPEC).save(tmp_path)
    damage(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    with pytest.raises(UserError, match=str(tmp_path)):
        load_quantizer(tmp_path)


def rewrite(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
