"""S3-Rec: its attributes, what it hides, its four tasks, and what pre-training leaves."""

import math

import numpy as np
import pytest
import torch

from components.baselines import learning, s3rec
from components.baselines.baseline_vectors import Modality
from components.baselines.interface import Data, TrainingSchedule
from components.baselines.padded_histories import draw_items, pad_histories
from components.baselines.s3rec import Segments
from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences
from tests import planted_sequences as planted

pytestmark = pytest.mark.usefixtures("one_thread")

N = 12


def tasks(seed=0, attributes=4):
    """The four tasks, with weights that are not small."""
    torch.manual_seed(seed)
    nobody = Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64))
    data = Data(N, nobody, 6, {})
    model = s3rec.S3Rec(s3rec.Config(width=8, inner=8), data, torch.device("cpu"))
    has_NA = np.arange(N + 1)[:, None] % attributes == np.arange(attributes)
    has_NA[N] = has_NA[5] = False  # the padding, and an item without vectors
    found = s3rec.Pretraining(model.network, has_NA, 8)
    with torch.no_grad():
        for weight in found.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return found.eval()


def rows(*histories):
    return pad_histories([np.array(history, np.int32) for history in histories], N)


def test_attributes_are_clusters_of_both_modalities_coarse_and_fine():
    generator = np.random.default_rng(0)
    modalities = {}
    for name, absent in (("image", 3), ("text", 5)):
        matrix_NE = generator.normal(size=(100, 6)).astype(np.float32)
        modalities[name] = Modality(matrix_NE, np.arange(100) != absent)
    has_NA = s3rec.attributes(modalities, 0)
    assert has_NA.shape == (101, 2 * (2 + 9)) and has_NA.any(axis=0).all()
    count_N = has_NA.sum(axis=1)
    assert (
        count_N[[3, 5, 100]].tolist() == [2, 2, 0] and (np.delete(count_N, [3, 5, 100]) == 4).all()
    )


def test_an_attribute_is_asked_against_all_that_the_item_has_not():
    logit_PA = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    has_PA = torch.tensor([[True, False, True, False], [False] * 4])
    wrong = math.exp(2.0) + math.exp(0.5)
    expected = [-math.log(math.exp(f) / (math.exp(f) + wrong)) for f in (1.0, -1.0)]
    found = s3rec.attribute_loss(logit_PA.requires_grad_(), has_PA)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    found.backward()
    assert logit_PA.grad.isfinite().all()
    assert s3rec.attribute_loss(logit_PA, torch.zeros_like(has_PA)).item() == 0


def test_segments_are_stretches_of_half_a_row_at_most():
    generator = np.random.default_rng(0)
    histories = [np.arange(length) + 100 * k for k, length in enumerate([2, 3, 6, 9] * 200)]
    batch = pad_histories(histories, -1)
    within_BS, item_BT, length_B = s3rec.cut(batch, -1, generator)
    assert (within_BS.sum(axis=1) == length_B).all() and not within_BS[~batch.real_BS].any()
    for row, within_S, item_T in zip(batch.item_BS, within_BS, item_BT, strict=True):
        assert item_T[item_T >= 0].tolist() == row[within_S].tolist()
        assert (np.diff(np.flatnonzero(within_S)) == 1).all()
    assert set(length_B[::4]) == {1} and set(length_B[3::4]) == {1, 2, 3, 4}
    assert within_BS[3::4, :9].any(axis=0).all()  # anywhere


def test_hidden_items_are_hidden_and_the_states_see_both_ways():
    found = tasks()
    batch = rows([1, 2, 3, 4], [6, 7])
    hidden_BS = draw_items(batch, 0.3, np.random.default_rng(0))
    segments = s3rec.cut(batch, N, np.random.default_rng(1))
    asked, state = [], found._states
    found._states = lambda item_BS, length_B: asked.append(item_BS) or state(item_BS, length_B)
    found.loss(batch, hidden_BS, segments)
    shown, context, segment = asked
    assert (shown.numpy()[hidden_BS] == N + 1).all()
    assert (shown.numpy()[~hidden_BS] == batch.item_BS[~hidden_BS]).all()
    assert (context.numpy()[segments.within_BS] == N + 1).all()
    assert segment.tolist() == segments.item_BT.tolist()
    length = torch.tensor([3])
    one, two = (state(torch.tensor([[1, N + 1, last]]), length)[0, 1] for last in (3, 4))
    assert (one - two).abs().max() > 1e-3


def test_the_loss_is_the_weighted_sum_of_the_tasks():
    found, batch = tasks(), rows([1, 2, 3, 4], [6, 7])
    hidden_BS = np.zeros((2, 4), bool)
    hidden_BS[0, 1] = hidden_BS[1, 0] = True  # items 2 and 6
    segments = Segments(hidden_BS, np.array([[2], [6]]), np.array([1, 1]))
    log, e, a = torch.nn.functional.log_softmax, found.network.item.weight, found.attribute.weight
    length = torch.from_numpy(batch.length_B)
    masked = torch.from_numpy(np.where(hidden_BS, N + 1, batch.item_BS))
    state_BSD = found._states(masked, length)
    f_PD = torch.stack([state_BSD[0, 1], state_BSD[1, 0]])
    mip = -log(f_PD @ found.mip.weight.T @ e[:N].T, 1)[[0, 1], [2, 6]].mean()
    # one attribute per item: a plain softmax; both hidden items have number 2 of four
    map_ = -log(f_PD @ found.map.weight.T @ a.T, 1)[:, 2].mean()
    aap = -log(e[[1, 3, 4, 7]] @ found.aap.weight.T @ a.T, 1)[range(4), [1, 3, 0, 3]].mean()
    context_BD = torch.stack([state_BSD[0, 3], state_BSD[1, 1]])
    alone_BD = found._states(torch.tensor([[2], [6]]), torch.tensor([1, 1]))[:, 0]
    sp = -log(context_BD @ found.sp.weight.T @ alone_BD.T, 1).diagonal().mean()
    expected = 0.2 * aap + mip + map_ + 0.5 * sp
    assert all(part > 0.01 for part in (aap, mip, map_, sp))
    torch.testing.assert_close(found.loss(batch, hidden_BS, segments), expected)


def test_equal_segments_are_no_negatives_of_each_other():
    found, batch = tasks(), rows([1, 2], [1, 3])
    within_BS = np.array([[True, False], [True, False]])
    same = Segments(within_BS, np.array([[1], [1]]), np.array([1, 1]))
    assert found._segment_loss(batch, same).item() == pytest.approx(0, abs=1e-6)
    other = Segments(within_BS, np.array([[1], [4]]), np.array([1, 1]))
    assert found._segment_loss(batch, other).item() > 0.01


def fitted(path, out_of_time=lambda: False, **settings):
    there = [name for name in planted.VECTORS if (path / name).is_dir()]
    given = {name: Artifact.open(path / name) for name in there}
    histories = planted.follow(planted.last_plus_5, users=60)
    lengths = np.cumsum([0, *map(len, histories)])
    training = Sequences(np.concatenate(histories).astype(np.int32), lengths)
    data = Data(planted.ITEMS, training, 6, given)
    schedule = TrainingSchedule(1, 1, 0.0, 1, 0, "cpu", lambda model: 0.0, out_of_time)
    config = s3rec.Config(width=16, inner=16, batch_size=32, learning_rate=0.01, **settings)
    return s3rec.fit(config, data, schedule)


def test_pre_training_comes_first_and_ends_when_the_time_is_up(tmp_path):
    none = fitted(tmp_path, pretrain_epochs=0)  # which reads no vectors
    planted.with_vectors(tmp_path, **planted.random_vectors())
    assert [set(row) for row in none.curve] == [{"epoch", "loss", "validation_ndcg_10"}]
    some = fitted(tmp_path, pretrain_epochs=6)
    assert [row.get("pretraining_epoch") for row in some.curve] == [1, 2, 3, 4, 5, 6, None]
    assert some.curve[5]["loss"] < some.curve[0]["loss"]
    assert some.model.parameters == none.model.parameters == learning.count(some.model.network)
    late = fitted(tmp_path, lambda: True, pretrain_epochs=6)
    assert [row.get("pretraining_epoch") for row in late.curve] == [1, None] and late.cut
