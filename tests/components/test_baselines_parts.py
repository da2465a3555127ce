"""Parts of the baselines: windows, neighbours, masks, padding, first places, the search."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from components.baselines import baseline_ranking, bert4rec, item_knn, learning, popular, sasrec
from components.baselines.interface import Data, TrainedModel, TrainingSchedule
from components.baselines.next_item import loss_of
from components.baselines.padded_histories import Rows, pad_histories, shuffle_windows, windows
from components.baselines.search import Trial, baseline_candidate, best, draw_configs, search
from macrec.core.errors import UserError
from macrec.data.sequences import Sequences
from macrec.data.split import Cases
from macrec.metrics.predictions import first_places
from macrec.metrics.ranking_metrics import Ranks, ranks_by_value, ranks_in_scores

pytestmark = pytest.mark.usefixtures("one_thread")


def sequences(*histories):
    lengths = [len(history) for history in histories]
    items = np.concatenate([np.array(history, np.int32) for history in histories])
    return Sequences(items.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def schedule(validate=lambda model: 0.0, **others):
    limits = {"epochs": 3, "patience": 2, "decay": 0.0, "validate_every": 1}
    return TrainingSchedule(
        **{**limits, "seed": 0, "device": "cpu", "validate": validate, **others}
    )


@pytest.mark.parametrize("targets", [1, 2, 5, 20])
def test_every_item_but_the_first_is_the_target_of_one_window(targets):
    lengths = [0, 1, 2, 3, 6, 7, 19, 21, 22, 57]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    training = Sequences(np.arange(sum(lengths), dtype=np.int32), np.array([0, *ends]))
    found, seen = windows(training, targets), []
    for start, length, first in zip(found.start_W, found.length_W, found.first_W, strict=True):
        user = np.searchsorted(ends, start, side="right")
        assert starts[user] <= start and start + length <= ends[user] and 2 <= length <= targets + 1
        seen += range(start + first, start + length)
        assert start == starts[user] or first >= -(-targets // 2)
    every = [range(s + 1, e) for s, e in zip(starts, ends, strict=True)]
    assert sorted(seen) == list(itertools.chain(*every))


def test_a_batch_holds_windows_of_like_length_and_an_epoch_all_of_them():
    training = sequences(*[np.arange(n) + 100 * n for n in (2, 3, 2, 5, 3, 9)])
    found = windows(training, 20)
    batches = list(shuffle_windows(found, 2, -1, np.random.default_rng(0)))
    rows = [row[row >= 0].tolist() for batch in batches for row in batch.item_BS]
    histories = np.split(training.items, training.offsets[1:-1])
    assert sorted(rows) == sorted(history.tolist() for history in histories)
    assert [sorted(b.length_B.tolist()) for b in batches] != [[2, 2], [3, 3], [5, 9]]  # any order
    assert sorted(sorted(b.length_B.tolist()) for b in batches) == [[2, 2], [3, 3], [5, 9]]


def small(module, max_history=6):
    torch.manual_seed(0)
    data = Data(12, sequences([0, 1]), max_history, {})
    config = module.Config(width=8, inner=8, layers=2, heads=2)
    name = "SasRec" if module is sasrec else "Bert4Rec"
    model = getattr(module, name)(config, data, torch.device("cpu"))
    with (
        torch.no_grad()
    ):  # larger than at the start, so that a place that is seen makes itself felt
        for weight in model.network.parameters():
            weight.mul_(5)
    model.network.eval()
    return model


@pytest.mark.parametrize("module", [sasrec, bert4rec])
def test_scores_do_not_depend_on_who_shares_the_batch(module):
    model = small(module)
    histories = [np.array(h, np.int32) for h in ([3], [1, 2, 3, 4, 5, 6], [7, 3, 2])]
    together = model.score_all(histories)
    alone = np.concatenate([model.score_all([history]) for history in histories])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.ptp(together, axis=0).min() > 1e-3  # and do depend on the history


def test_sasrec_is_causal_and_its_loss_is_that_of_the_next_item():
    model, history = small(sasrec), np.array([1, 5, 3, 8], np.int32)
    rows = pad_histories([history, history[:3]], model.network.items)
    changed = Rows(rows.item_BS.copy(), rows.length_B, rows.first_B)
    changed.item_BS[0, 3] = 9
    length = torch.from_numpy(rows.length_B)
    before, after = (
        model.network(torch.from_numpy(r.item_BS), length)[0].detach() for r in (rows, changed)
    )
    torch.testing.assert_close(before[:3], after[:3])
    assert (before[3] - after[3]).abs().max() > 1e-3
    last = Rows(rows.item_BS, rows.length_B, rows.length_B - 1)  # the last items are the targets
    loss = loss_of(model.network, last, torch.device("cpu"))
    scores_BN = torch.from_numpy(model.score_all([history[:3], history[:2]]))
    expected = torch.nn.functional.cross_entropy(scores_BN, torch.tensor([8, 3]))
    torch.testing.assert_close(loss.detach(), expected)


def test_bert4rec_sees_what_is_behind_a_mask():
    network = small(bert4rec).network
    length, states = torch.tensor([4]), []
    for last in (3, 4):
        shown = torch.tensor([[1, network.mask, 2, last]])
        states.append(network(shown, length)[0, 1].detach())
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_what_is_hidden_is_real_and_never_nothing():
    generator = np.random.default_rng(0)
    histories = [np.arange(length, dtype=np.int32) for length in generator.integers(1, 9, 4000)]
    rows = pad_histories(histories, 99)
    hidden = bert4rec.hide(rows, bert4rec.Config(hidden=0.3, last_only=0.0), generator)
    assert not hidden[~rows.real_BS].any() and hidden.any(axis=1).all()
    assert 0.3 <= hidden.sum() / rows.real_BS.sum() < 0.45
    last = bert4rec.hide(rows, bert4rec.Config(last_only=1.0), generator)
    assert (np.argmax(last, axis=1) == rows.length_B - 1).all() and (last.sum(axis=1) == 1).all()


def fitted_knn(data, **settings):
    return item_knn.fit(item_knn.Config(**settings), data, schedule()).model


def test_neighbours_are_those_of_the_equation():
    # c(0, 1) = 3, c(0, 2) = 1, c(1, 2) = 1; the last user takes item 1 twice and counts once
    data = Data(5, sequences([0, 1, 2], [1, 0], [2], [1, 1, 0]), 20, {})
    model = fitted_knn(data, shrinkage=1, decay=0.5)
    count = [3, 3, 2]
    s = {pair: both / (np.sqrt(count[pair[0]] * count[pair[1]]) + 1)
         for pair, both in {(0, 1): 3, (0, 2): 1, (1, 2): 1}.items()}  # fmt: skip
    scores = model.score_all([np.array([0, 1], np.int32), np.array([3], np.int32)])
    expected = [s[0, 1], 0.5 * s[0, 1], 0.5 * s[0, 2] + s[1, 2], 0, 0]
    assert scores[0] == pytest.approx(expected, abs=2e-6)
    assert scores[0, 3] == scores[0, 4] == 0  # nobody has them
    assert np.argsort(-scores[1]).tolist()[:3] == [1, 0, 2]  # item 3 has no neighbour: by count
    one = fitted_knn(data, shrinkage=1, neighbours=1)
    popular = fitted_knn(data, shrinkage=1, asymmetry=1).neighbours.similar_NN
    assert popular[2, 0] == pytest.approx(1 / 3) and popular[0, 2] == pytest.approx(1 / 4)
    assert one.parameters == 3 and one.score_all([np.array([0], np.int32)])[0, 2] < 1e-5


def test_neighbours_find_planted_groups():
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 5, 200)
    histories = [generator.permutation(8)[:4] + 8 * group for group in groups]
    model = fitted_knn(Data(40, sequences(*histories), 20, {}))
    first = first_places(model.score_all([h[:2].astype(np.int32) for h in histories]), 6).items_UK
    assert (first // 8 == groups[:, None]).mean() > 0.99


def test_popular_counts():
    found = popular.fit(popular.Config(), Data(4, sequences([1, 1, 2], [1]), 20, {}), schedule())
    assert found.model.score_all([np.array([0])] * 2).tolist() == [[0, 3, 1, 0]] * 2


def test_what_a_user_has_is_not_listed_if_it_is_dropped():
    histories = [np.array(h, np.int32) for h in ([3, 1, 0], [2], [0, 1])]
    cases = Cases(histories, np.array([2, 0, 1], np.int32))
    model = popular.Popular(np.array([9, 5, 3, 1], np.float32))
    shown, found = {}, {}
    for drop in (False, True):
        # the model is shown two items, what is dropped are all
        batches = list(
            baseline_ranking.score_in_batches(model, cases, baseline_ranking.Protocol(2, drop, 2))
        )
        shown[drop] = [first_places(b.scores_BN, 4).items_UK.tolist() for b in batches]
        found[drop] = {
            int(user): int(tied)
            for b in batches
            for user, tied in zip(
                b.user_B,
                ranks_in_scores(b.scores_BN, cases.targets_T[b.user_B]).tied_U,
                strict=True,
            )
        }
    assert shown[False] == [[[0, 1, 2, 3]] * 2, [[0, 1, 2, 3]]]
    assert shown[True] == [[[0, 1, 3, -1], [2, -1, -1, -1]], [[2, 3, -1, -1]]]
    assert found[True] == {0: 1, 1: 1, 2: 0}  # the third user's target is one that he has


def test_first_places_keep_a_tie_whole_and_ranks_agree():
    generator = np.random.default_rng(0)
    scores_UN = generator.integers(0, 9, (50, 30)).astype(np.float32)
    lists = first_places(scores_UN, 5)
    for scores_N, items, scores in zip(scores_UN, *lists, strict=True):
        fifth = np.sort(scores_N)[-5]
        expected = sorted(np.flatnonzero(scores_N >= fifth), key=lambda i: (-scores_N[i], i))
        assert items[items >= 0].tolist() == expected
        assert scores[items >= 0].tolist() == scores_N[expected].tolist()
    targets_U = generator.integers(0, 30, 50)
    ranks = ranks_in_scores(scores_UN, targets_U)
    one_by_one = [ranks_by_value(s, t[None]) for s, t in zip(scores_UN, targets_U, strict=True)]
    expected = Ranks(*map(np.concatenate, zip(*one_by_one, strict=True)))
    np.testing.assert_array_equal(ranks, expected)
    with pytest.raises(AssertionError, match="not finite"):
        ranks_in_scores(np.array([[np.nan, 1.0]]), np.array([1]))


class Net(torch.nn.Module):
    """One weight; a step lowers it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, 1))


def learned(curve, **limits):
    network, given = Net(), iter(curve)
    seen = []

    def validate(model):
        seen.append(float(network.weight.detach()))
        return next(given)

    def losses(generator):
        yield network.weight.sum()

    config = SimpleNamespace(learning_rate=0.1, weight_decay=0.0)
    found = learning.learn(object(), network, losses, config, schedule(validate, **limits))
    return found, float(network.weight.detach()), seen


def test_the_best_weights_are_kept_and_patience_ends_the_training():
    found, weight, seen = learned([0.1, 0.3, 0.2, 0.2, 0.9], epochs=9, patience=2)
    assert [row.get("validation_ndcg_10") for row in found.curve] == [0.1, 0.3, 0.2, 0.2]
    assert weight == seen[1] and not found.cut
    found, _, _ = learned([0.1, 0.2], epochs=3, validate_every=2)  # the last epoch is validated
    assert [row.get("validation_ndcg_10") for row in found.curve] == [None, 0.1, 0.2]
    found, _, _ = learned([0.1], epochs=9, validate_every=4, out_of_time=lambda: True)
    assert len(found.curve) == 1 and found.cut


def test_the_rate_falls_from_the_best_weights_on():
    curve = [0.1, 0.2, 0.3, 0.4, 0.1, 0.1, 0.3, 0.5, 0.2]
    found, weight, seen = learned(curve, epochs=9, patience=2, decay=0.75)
    assert [row["epoch"] for row in found.curve] == list(range(1, 10))
    assert [row["validation_ndcg_10"] for row in found.curve] == curve  # three more than patience
    # the moments are those of a gradient that never changes, so a step is as long as the rate
    assert seen[3] == pytest.approx(1 - 4 * 0.1, abs=1e-5) and seen[5] < seen[3]
    steps = -np.diff([seen[3], *seen[6:]])
    assert steps == pytest.approx([0.075, 0.05, 0.025], abs=1e-5)
    assert weight == seen[7]
    cut, _, _ = learned([0.1], epochs=9, decay=1.0, out_of_time=lambda: True)
    assert len(cut.curve) == 1 and cut.cut


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(UserError, match="Lower learning_rate"):
        network = Net()
        config = SimpleNamespace(learning_rate=0.1, weight_decay=0.0)
        losses = lambda generator: iter([network.weight.sum() * float("nan")])  # noqa: E731
        learning.learn(object(), network, losses, config, schedule())


def trying(seconds, width_of_failure=None):
    """A model whose trials take so long, judged by its width, and a clock."""
    time = SimpleNamespace(now=0.0)

    def fit(config, data, schedule):
        time.now += seconds
        if config.width == width_of_failure:
            raise UserError("the loss is not finite")
        return TrainedModel(SimpleNamespace(width=config.width), [], schedule.out_of_time())

    module = SimpleNamespace(Config=sasrec.Config, SPACE=sasrec.SPACE, fit=fit)
    return module, lambda: time.now


def searched(module, clock, fixed=None, **limits):
    candidate = baseline_candidate(
        module, object(), schedule(lambda m: m.width / 1000), fixed or {}
    )
    return search(candidate, clock=clock, **limits)


def test_the_search_draws_other_settings_each_time_and_ends_in_time():
    found = searched(*trying(40), trials=9, minutes=60, fixed={"layers": 3})
    assert len({tuple(t.settings.items()) for t in found}) == 9
    assert found[0].settings == vars(sasrec.Config(layers=3))
    assert {t.settings["layers"] for t in found} == {3} and not any(t.cut for t in found)
    assert best(found).validation_ndcg_10 == max(t.settings["width"] for t in found) / 1000
    found = searched(*trying(40), trials=9, minutes=1.5)
    assert [t.cut for t in found] == [False, False, True]
    assert len(searched(*trying(40), trials=9, minutes=0.01)) == 1


def test_a_trial_that_fails_is_told_and_is_not_the_best():
    found = searched(*trying(40, width_of_failure=128), trials=20, minutes=60)
    assert len(found) == 20
    for trial in found:
        wide = trial.settings["width"] == 128
        assert (trial.failed == "the loss is not finite") == wide
        assert (trial.validation_ndcg_10 is None) == wide
    assert {64, 128} <= {t.settings["width"] for t in found}
    assert best(found).settings["width"] == 64
    alone = Trial({}, None, 1.0, 0, False, "the loss is not finite")
    assert best([alone, alone]) is None


def drawn(module, trials, seed=0):
    candidate = baseline_candidate(module, None, schedule(), {})
    return list(draw_configs(candidate, trials, np.random.default_rng(seed)))


def test_a_small_space_is_drawn_whole_and_an_empty_one_once():
    module = SimpleNamespace(Config=sasrec.Config, SPACE={"layers": (1, 2, 3), "heads": (2, 3)})
    found = drawn(module, 50)
    assert {(c.layers, c.heads) for c in found} == {(1, 2), (2, 2), (3, 2)}  # 3 heads: not 64
    assert len(found) == 3
    assert drawn(popular, 50) == [popular.Config()]
    assert drawn(module, 50) == found
