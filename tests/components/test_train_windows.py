"""A history that is read once for all its targets, by an encoder that does not look ahead."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.train.batches import make_batch
from components.train.generator_losses import batch_loss
from components.train.generator_trainer import Trainer
from components.train.rows import TASKS, training_rows, training_windows
from macrec.core.errors import UserError
from macrec.generator.beam_search import score_items
from macrec.generator.decoder import encode
from macrec.generator.model import Recommender
from macrec.generator.t5 import encode as encode_sources
from macrec.generator.t5 import read_weights
from macrec.generator.tokens import SEQUENCE_TASK, source_mask
from tests.small_generator import (
    CPU,
    SIZE,
    SMALL,
    VOCABULARY,
    catalogue_codes,
    data_of,
    flat,
    random_sequences,
    small_model,
    train_small,
)

CAUSAL = dataclasses.replace(SIZE, encoder="causal")
SEQUENCE_TASKS = TASKS[:4]

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_windows_have_every_target_once_and_half_a_window_before_it(lengths, max_history):
    sequences = flat(*(range(length) for length in lengths))
    found = training_windows(sequences, max_history)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    targets: list[int] = []
    for first, last, count in zip(*found, strict=True):
        assert owner[first] == owner[last] and count >= 1
        assert last - first <= max_history
        for target in range(last - count + 1, last + 1):
            before = target - first
            whole = target - sequences.offsets[owner[target]]
            assert before == whole or before > max_history // 2
            targets.append(target)
    assert targets == training_rows(sequences, max_history, augment=True)[1].tolist()


def test_a_short_history_is_one_source():
    found = training_windows(flat(range(7), range(2), range(3), range(4)), 20)
    columns = [column.tolist() for column in found]
    assert columns == [[0, 12], [4, 13], [4, 1]]
    assert [c.tolist() for c in training_windows(flat(range(12)), 4)] == [
        [0, 2, 4, 5],
        [4, 6, 8, 9],
        [4, 2, 2, 1],
    ]


@pytest.mark.parametrize("source", ["tokens", "items"])
@pytest.mark.parametrize("tasks", [TASKS, ("seq_text_text",), ("seq_image_text",)])
def test_loss_and_gradients_are_those_of_the_histories_one_by_one(tasks, source):
    """In float64; with items without a picture, and users of all lengths."""
    found = {}
    for windows in (False, True):
        settings = {"max_history": 20, "windows": windows, "source": source}
        data = data_of(random_sequences(), catalogue_codes(3), tasks, **settings)
        rows = data.sequence_rows
        model = small_model(size=dataclasses.replace(CAUSAL, source=source)).double()
        batch = make_batch(data, rows, np.arange(len(rows)))
        loss = batch_loss(read_weights(model), batch, 0.1, CPU)
        loss.loss_sum.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert data.target_tokens(rows, np.arange(len(rows))) == int(loss.tokens)
        found[windows] = len(rows), loss, gradient
    (many, singly, gradient), (few, together, same) = found[False], found[True]
    assert few < many / 3
    assert together.loss_sum.item() == pytest.approx(singly.loss_sum.item(), rel=1e-12)
    torch.testing.assert_close(together.task_sum_T, singly.task_sum_T)
    torch.testing.assert_close(together.task_tokens_T, singly.task_tokens_T, rtol=0, atol=0)
    torch.testing.assert_close(same, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("encoder", ["full", "causal"])
def test_the_encoder_sees_what_is_behind_a_token_only_if_it_is_full(encoder):
    weights = read_weights(small_model(size=dataclasses.replace(SIZE, encoder=encoder)))
    source_BS = torch.randint(16, VOCABULARY.size, (2, 8), generator=torch.Generator())
    changed_BS = source_BS.clone()
    changed_BS[:, 5:] = 17
    with torch.no_grad():
        states = [encode_sources(weights, ids)[0] for ids in (source_BS, changed_BS)]
    assert torch.equal(states[0][:, :5], states[1][:, :5]) == (encoder == "causal")
    assert not torch.equal(states[0][:, 5:], states[1][:, 5:])


@pytest.mark.parametrize("source", ["tokens", "items"])
@pytest.mark.parametrize("encoder", ["full", "causal"])
def test_decoding_scores_items_as_training_does(encoder, source):
    """The score of the item that came next is minus its part of the loss, in sources with EOS."""
    sequences, item_codes = flat([1, 4, 2, 7, 9, 0], [3, 8, 8, 5]), catalogue_codes(3)
    settings = {"windows": encoder == "causal", "source": source}
    data = data_of(sequences, item_codes, SEQUENCE_TASKS, max_history=20, **settings)
    size = dataclasses.replace(SIZE, encoder=encoder, source=source)
    model = small_model(size=size).eval()
    batch = make_batch(data, data.sequence_rows, np.arange(len(data.sequence_rows)))
    by_task_T = batch_loss(read_weights(model), batch, 0.0, CPU).task_sum_T
    first_R, target_R = training_rows(sequences, 20, augment=True)
    histories = [sequences.items[a:b] for a, b in zip(first_R, target_R, strict=True)]
    recommender = Recommender(model, VOCABULARY, *item_codes)
    for task, total in zip(SEQUENCE_TASKS, by_task_T.tolist(), strict=False):
        modality, target = task.split("_")[1:]
        source_BS = torch.from_numpy(recommender.source_ids(modality, histories))
        code_BL = recommender.codes_NL(target)[sequences.items[target_R]]
        coded_B = code_BL[:, 0] >= 0
        tokens_B1L = torch.from_numpy(VOCABULARY.tokens(target, code_BL[coded_B]))[:, None]
        encoded = encode(model, source_BS[torch.from_numpy(coded_B)])
        scores = score_items(encoded, SEQUENCE_TASK[target], tokens_B1L)
        assert -scores.sum().item() == pytest.approx(total, rel=1e-5), task


def test_end_of_source_is_read_by_the_full_encoder_alone():
    source_BS = torch.tensor([[20, 21, 1, 0]])
    assert source_mask(source_BS, causal_encoder=False).tolist() == [[True, True, True, False]]
    assert source_mask(source_BS, causal_encoder=True).tolist() == [[True, True, False, False]]


def test_steps_have_as_many_targets_and_the_curve_counts_them():
    data = data_of(random_sequences(60), catalogue_codes(3), max_history=20, windows=True)
    config = dataclasses.replace(SMALL, encoder="causal", batch_size=64)
    trainer = Trainer(small_model(size=CAUSAL), data, config, CPU)
    steps = math.ceil(trainer.targets / config.batch_size)
    assert abs(trainer.steps_per_epoch - steps) < 0.1 * steps and len(data.sequence_rows) < 200
    short = dataclasses.replace(SMALL, epochs=1, decay=0.0)
    full, causal = (train_small(dataclasses.replace(short, encoder=e)) for e in ("full", "causal"))
    assert causal.trained.rows == full.trained.rows


@pytest.mark.parametrize("wrong", [{"history_dropout": 0.1}, {"augment": False}])
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(UserError, match=r"encoder=causal needs history_dropout=0 and augment=true"):
        dataclasses.replace(SMALL, encoder="causal", **wrong)
