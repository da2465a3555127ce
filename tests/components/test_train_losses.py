"""The losses equal stock transformers and the formulas of the paper."""

import dataclasses

import numpy as np
import pytest
import torch

from components.train.batches import NO_TASK, make_batch, pair_batch
from components.train.generator_losses import batch_loss, implicit_loss, mean_pooled
from components.train.rows import TASKS
from macrec.generator.t5 import Dropout, decode_blocks, encode, memory, read_weights
from macrec.generator.tokens import EOS, MISSING, PAD
from tests.small_generator import (
    CPU,
    LEVELS,
    SIZE,
    VOCABULARY,
    catalogue_codes,
    data_of,
    random_sequences,
    small_model,
)

KEEPS_ALL = 1e-9
"""A rate that goes the way of dropout and drops nothing."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("rate", [0.0, KEEPS_ALL])
def test_loss_and_gradients_are_those_of_stock_transformers_row_by_row(rate):
    data = data_of(random_sequences(longest=25), catalogue_codes(3, 5), max_history=20)
    rows = data.sequence_rows
    batch = make_batch(data, rows, np.arange(0, len(rows), 7))
    assert batch.source_BS.shape[1] > 40  # distances that share a bucket
    ours, stock = small_model().double().eval(), small_model().double().eval()
    found = batch_loss(read_weights(ours), batch, 0.0, CPU, Dropout(rate))
    sums, tokens = np.zeros(len(TASKS)), np.zeros(len(TASKS))
    for row, source_S in enumerate(batch.source_BS):
        ids_1S = torch.from_numpy(source_S[source_S != PAD])[None]  # no padding at all
        for block, task in enumerate(batch.task_BG[row]):
            if task == NO_TASK:
                continue
            mean = stock(
                input_ids=ids_1S,
                decoder_input_ids=torch.from_numpy(batch.decoder_BGL[row, block])[None],
                labels=torch.from_numpy(batch.labels_BGL[row, block])[None],
            ).loss
            (LEVELS * mean).backward()
            sums[task] += LEVELS * mean.item()
            tokens[task] += LEVELS
    assert (tokens[:4] > 0).all()
    np.testing.assert_allclose(found.task_sum_T.numpy(), sums, rtol=1e-5)
    np.testing.assert_array_equal(found.task_tokens_T.numpy(), tokens)
    # transformers takes the mean squares of its layer norms in float32, whatever the dtype
    assert found.loss_sum.item() == pytest.approx(sums.sum(), rel=1e-7)
    assert found.tokens.item() == tokens.sum()
    found.loss_sum.backward()
    for (name, own), other in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert other.grad.norm() > 1e-6, name
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_a_source_of_items_is_what_transformers_encodes_from_sums_of_embeddings():
    data = data_of(random_sequences(), catalogue_codes(3, 5), max_history=20, source="items")
    rows = data.sequence_rows
    batch = make_batch(data, rows, np.arange(0, len(rows), 7))
    size = dataclasses.replace(SIZE, source="items")
    ours, stock = small_model(size=size).double().eval(), small_model().double().eval()
    found = batch_loss(read_weights(ours), batch, 0.0, CPU)
    histories = rows.last_R - rows.first_R
    longest = int(histories[::7].max())
    assert found.mask_BS.shape[1] == longest + 1 < batch.source_BS.shape[1] / 2
    total, missing = 0.0, 0
    for row, source_S in enumerate(batch.source_BS):
        code_HL = torch.from_numpy(source_S[source_S > EOS]).view(-1, LEVELS)
        assert len(code_HL) == histories[7 * row]
        missing += int((code_HL == MISSING).all(dim=1).sum())
        end_1D = stock.shared.weight[EOS, None]
        x_HD = torch.cat([stock.shared(code_HL).sum(1), end_1D]) / LEVELS**0.5
        for block, task in enumerate(batch.task_BG[row]):
            if task == NO_TASK:
                continue
            mean = stock(
                inputs_embeds=x_HD[None],
                decoder_input_ids=torch.from_numpy(batch.decoder_BGL[row, block])[None],
                labels=torch.from_numpy(batch.labels_BGL[row, block])[None],
            ).loss
            (LEVELS * mean).backward(retain_graph=True)
            total += LEVELS * mean.item()
    assert missing > 5
    assert found.loss_sum.item() == pytest.approx(total, rel=1e-7)
    found.loss_sum.backward()
    for (name, own), other in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-5, msg=name)


class Halved(Dropout):
    """Halves what dropout would thin out."""

    def __init__(self) -> None:
        super().__init__(0.5)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2

    def relu(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        return x.relu(), 0.5


def test_dropout_stands_where_stock_transformers_has_it(monkeypatch):
    data = data_of(random_sequences(), catalogue_codes(3))
    batch = make_batch(data, data.sequence_rows, np.arange(6))
    model = small_model().double()
    with torch.no_grad():
        ours = batch_loss(read_weights(model), batch, 0.0, CPU, Halved()).loss_sum
        plain = batch_loss(read_weights(model), batch, 0.0, CPU).loss_sum
        halve = lambda x, p, training, inplace=False: x / 2 if training else x  # noqa: E731
        monkeypatch.setattr(torch.nn.functional, "dropout", halve)
        model.train()
        model.set_attn_implementation("eager")  # the other ways do not call the function
        source_BS = torch.from_numpy(batch.source_BS)
        stock = torch.zeros(())
        for decoder_BL, labels_BL in zip(
            torch.from_numpy(batch.decoder_BGL).unbind(1),
            torch.from_numpy(batch.labels_BGL).unbind(1),
            strict=True,
        ):
            mean = model(
                input_ids=source_BS,
                attention_mask=source_BS != PAD,
                decoder_input_ids=decoder_BL,
                decoder_attention_mask=torch.ones_like(decoder_BL),
                labels=labels_BL.contiguous(),
            ).loss
            stock = stock + mean * (labels_BL >= 0).sum()
    assert ours.item() == pytest.approx(stock.item(), rel=1e-6)
    assert ours.item() != pytest.approx(plain.item(), rel=1e-2)


def test_low_precision_stays_near_and_its_gradients_too():
    data = data_of(random_sequences(), catalogue_codes(3))
    batch = make_batch(data, data.sequence_rows, np.arange(40))
    model = small_model()
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        found = batch_loss(read_weights(model, dtype), batch, 0.0, CPU)
        (found.loss_sum / found.tokens).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    exact, near = gradients
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert (near - exact).norm() < 0.05 * exact.norm()


def test_blocks_of_one_source_do_not_see_each_other():
    weights = read_weights(small_model())
    draw = torch.Generator().manual_seed(0)
    source_BS = torch.randint(16, VOCABULARY.size, (2, 5), generator=draw)
    decoder_BGL = torch.randint(16, VOCABULARY.size, (2, 2, LEVELS), generator=draw)
    changed_BGL = decoder_BGL.clone()
    changed_BGL[:, 0] = 17
    with torch.no_grad():
        encoded_BSD, _, padding = encode(weights, source_BS)
        sources = memory(weights, encoded_BSD)
        both, alone, other = (
            decode_blocks(weights, sources, padding, given_BGL)
            for given_BGL in (decoder_BGL, decoder_BGL[:, 1:], changed_BGL)
        )
    torch.testing.assert_close(both[:, 1:], alone)
    torch.testing.assert_close(both[:, 1], other[:, 1])
    assert not torch.allclose(both[:, 0], other[:, 0])


def test_label_smoothing_is_that_of_torch():
    data = data_of(random_sequences(), catalogue_codes(3))
    batch = make_batch(data, data.sequence_rows, np.arange(6))
    weights = read_weights(small_model())
    found = batch_loss(weights, batch, 0.2, CPU)
    with torch.no_grad():
        decoder_BGL, labels_BGL = map(torch.from_numpy, (batch.decoder_BGL, batch.labels_BGL))
        *_, padding = encode(weights, torch.from_numpy(batch.source_BS))
        sources = memory(weights, found.encoded_BSD)
        logits = decode_blocks(weights, sources, padding, decoder_BGL)
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 2), labels_BGL.flatten(), label_smoothing=0.2
        )
    torch.testing.assert_close(found.loss_sum / found.tokens, expected)


def test_pooling_leaves_padding_out():
    encoded_BSD = torch.tensor([[[2.0], [4.0], [100.0]]])
    assert mean_pooled(encoded_BSD, torch.tensor([[1, 1, 0]])).item() == 3.0


def test_implicit_loss_has_both_directions_and_prefers_the_right_pairs():
    draw = torch.Generator().manual_seed(0)
    text_PD = torch.randn(5, 8, generator=draw, requires_grad=True)
    image_PD = torch.randn(5, 8, generator=draw, requires_grad=True)
    loss = implicit_loss(text_PD, image_PD, 0.1)
    t, v = (x.detach() / x.detach().norm(dim=1, keepdim=True) for x in (text_PD, image_PD))
    similarity = (t @ v.T / 0.1).double().exp()
    right = similarity.diagonal()
    forward, backward = (-(right / similarity.sum(dim)).log().mean() for dim in (1, 0))
    assert loss.item() == pytest.approx((forward + backward).item(), rel=1e-5)
    loss.backward()
    assert text_PD.grad.norm() > 1e-3 and image_PD.grad.norm() > 1e-3
    assert implicit_loss(t, t, 0.1) < 0.1 * implicit_loss(t, t.roll(1, 0), 0.1)


def test_implicit_alignment_reaches_the_tokens_of_both_modalities():
    data = data_of(random_sequences(), catalogue_codes(), ("seq_text_text",))
    model = small_model()
    batch = pair_batch(data, 4, np.random.default_rng(0))
    assert (batch.task_BG == NO_TASK).all()
    items = batch_loss(read_weights(model), batch, 0.0, CPU)
    assert items.loss_sum.item() == items.tokens.item() == 0.0
    text_PD, image_PD = mean_pooled(items.encoded_BSD, items.mask_BS).chunk(2)
    implicit_loss(text_PD, image_PD, 0.1).backward()
    norm_V = model.shared.weight.grad.norm(dim=1)
    for source_BS in (batch.source_BS[:4, :-1], batch.source_BS[4:, :-1]):
        assert (norm_V[torch.from_numpy(source_BS)] > 1e-6).all()
