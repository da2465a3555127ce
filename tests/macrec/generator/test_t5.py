"""Dropout that is cheap on a CPU drops as it should; bias of distances as in transformers."""

import pytest
import torch

from macrec.generator.model import ModelSize, build_model
from macrec.generator.t5 import (
    Dropout,
    attend,
    distance_bias,
    encode,
    encode_embedded,
    read_weights,
)
from macrec.generator.tokens import Vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(1001, 1003)
    dropped = Dropout(0.1)(x)
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=0.001)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.9], rel=1e-4)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.001)
    rows, columns = (dropped == 0).double().mean(1), (dropped == 0).double().mean(0)
    for shares in (rows, columns):  # no pattern along either side: binomial spread
        assert shares.std().item() == pytest.approx((0.09 / 1002) ** 0.5, rel=0.1)
    assert torch.equal(x, torch.ones_like(x))


def test_dropout_is_repeated_by_the_seed_alone():
    x = torch.randn(50, 7)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(Dropout(0.5)(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("rectified", [False, True])
def test_gradient_passes_where_a_value_passed(rectified):
    torch.manual_seed(0)
    x = torch.randn(40, 30, requires_grad=True)
    drop = Dropout(0.3)
    if rectified:
        y, scale = drop.relu(x * 1)
        passed = (y != 0).float()
        assert ((y == x) | (y == 0)).all() and (y[x <= 0] == 0).all()
        assert 0.25 < 1 - (y[x > 0] != 0).float().mean().item() < 0.35
        y = y * scale
    else:
        y = drop(x)
        passed = (y != 0).float()
    y.sum().backward()
    torch.testing.assert_close(x.grad, passed * drop.scale)


def test_no_rate_changes_nothing():
    x = torch.randn(3, 4)
    assert Dropout(0.0)(x) is x
    assert torch.equal(Dropout(0.0).relu(x.clone())[0], x.relu())


@pytest.mark.parametrize("causal", [False, True])
def test_distances_fall_into_the_buckets_of_transformers(causal):
    model = build_model(Vocabulary(2, 3), ModelSize(d_model=8, d_ff=8, d_kv=4, layers=1, heads=2))
    weights = read_weights(model)
    stack = model.decoder if causal else model.encoder
    attention = stack.block[0].layer[0].SelfAttention
    ours = distance_bias(attention.relative_attention_bias.weight, weights, 0, 300, causal=causal)
    stock = attention.compute_bias(300, 300)[0]
    seen = torch.ones(300, 300).tril().bool() if causal else torch.ones(300, 300).bool()
    assert torch.equal(ours[:, seen], stock[:, seen])
    assert (ours[:, ~seen] == -torch.inf).all()
    late = distance_bias(attention.relative_attention_bias.weight, weights, 299, 1, causal=causal)
    assert torch.equal(late[:, 0], ours[:, 299])


def test_embeddings_in_place_of_ids_are_encoded_as_in_transformers():
    torch.manual_seed(0)
    size = ModelSize(d_model=8, d_ff=8, d_kv=4, layers=2, heads=2)
    model = build_model(Vocabulary(2, 3), size).eval()
    ids, mask = torch.randint(1, 20, (3, 7)), torch.arange(7) < torch.tensor([7, 2, 5])[:, None]
    x_BSD = model.shared(ids) + torch.randn(3, 7, 8)
    with torch.no_grad():
        ours, _ = encode_embedded(read_weights(model), x_BSD, mask)
        stock = model.encoder(inputs_embeds=x_BSD, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(ours[mask], stock[mask], atol=1e-5, rtol=1e-4)
        same, _ = encode_embedded(read_weights(model), model.shared(ids), mask)
        encoded, read, _ = encode(read_weights(model), ids * mask)
    assert torch.equal(read, mask)
    assert torch.equal(same[mask], encoded[mask])


@pytest.mark.parametrize("rate", [0.0, 1e-9])  # the latter drops nothing, by the path of training
def test_attention_in_bfloat16_has_a_softmax_in_float32(rate):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, n, 16).bfloat16() for n in (5, 40, 40))
    bias = torch.randn(2, 5, 40).bfloat16()
    weight = torch.softmax(query.double() @ key.double().mT + bias.double(), dim=-1)
    exact = weight @ value.double()
    found = attend(query, key, value, bias, Dropout(rate))
    assert found.dtype == torch.bfloat16
    narrow = torch.softmax(query @ key.mT + bias, dim=-1) @ value
    error, of_narrow = ((x.double() - exact).abs().mean() for x in (found, narrow))
    assert error < 0.9 * of_narrow
