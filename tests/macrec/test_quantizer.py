import json

import pytest
import torch

from macrec.errors import UserError
from macrec.quantizer import CrossModalQuantizer, QuantizerSpec, load_quantizer

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
