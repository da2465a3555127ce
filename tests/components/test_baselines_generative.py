"""Generators of the P5 family: collaborative IDs, tokens, visual tokens, beams and the rest."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from components.baselines import collaborative_ids as clustering
from components.baselines import generative, p5_cid, registry, vip5
from components.baselines.baseline_vectors import Modality
from components.baselines.collaborative_ids import (
    NONE,
    co_occurrence,
    collaborative_ids,
    sequential_ids,
    spectral_labels,
)
from components.baselines.generative import STAY, VISUAL, Generator, ItemIds, every_target
from components.baselines.interface import Data, TrainingSchedule
from components.baselines.padded_histories import pad_histories, shuffle_windows
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.data.sequences import Sequences
from macrec.generator.tokens import EOS, FIRST_CODE, PAD
from tests.planted_sequences import random_vectors, with_vectors

pytestmark = pytest.mark.usefixtures("one_thread")

ITEMS, PLACES, CPU = 30, 6, torch.device("cpu")
SMALL = {"width": 16, "layers": 1, "heads": 2, "inner": 16, "batch_size": 16, "dropout": 0.0}


def sequences(*histories):
    items = [item for history in histories for item in history]
    return Sequences(np.array(items, np.int32), np.cumsum([0, *map(len, histories)]))


def random_histories(users=40, items=ITEMS - 3, seed=0):
    """Histories in which the last three items do not occur."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, items, n).tolist() for n in generator.integers(1, 9, users)]


def ids_of(*histories, items=ITEMS, clusters=3, tokens=5, seed=0):
    generator = np.random.default_rng(seed)
    return collaborative_ids(sequences(*histories), items, clusters, tokens, generator)


def assert_ids(path_NL, tokens):
    """All different, none begins another, and nothing stands behind an end."""
    rows = [tuple(row[row != NONE]) for row in path_NL]
    beginnings = {row[:length] for row in rows for length in range(len(row))}
    assert len(set(rows)) == len(rows) and not beginnings & set(rows)
    assert path_NL.max() < tokens and path_NL.min() >= NONE
    assert ((path_NL[:, 1:] == NONE) | (path_NL[:, :-1] != NONE)).all() and len(rows[0]) > 1


def test_edges_are_pairs_of_interactions_of_one_user():
    edges = co_occurrence(sequences([0, 1, 2], [1, 0], [3], [1, 1, 0]), 5).toarray()
    expected = np.zeros((5, 5))
    for one, other, count in ((0, 1, 4), (0, 2, 1), (1, 2, 1)):
        expected[one, other] = expected[other, one] = count
    np.testing.assert_array_equal(edges, expected)


def test_groups_that_are_bought_together_share_their_first_token():
    generator = np.random.default_rng(0)
    groups = [generator.permutation(12)[:4] + 12 * group for group in [0, 1, 2, 3] * 40]
    mixed = [[0, 12], [12, 24], [24, 36], [36, 0]]  # so that the graph is one
    path_NL = ids_of(*groups, *mixed, items=48, clusters=4, tokens=12)
    assert_ids(path_NL, 12)
    assert path_NL.shape == (48, 2)  # clusters of 12 are not cut
    first = path_NL[:, 0].reshape(4, 12)
    assert (first == first[:, :1]).all() and len(set(first[:, 0])) == 4
    cut = ids_of(*groups, *mixed, items=48, clusters=4, tokens=11)
    assert cut.shape[1] > 2  # and of 11 at most they are
    assert_ids(cut, 11)


@pytest.mark.parametrize(
    "histories",
    [
        [[]],
        [[item] for item in range(ITEMS)],
        [[item, item] for item in range(ITEMS)],
        [[item, item + 1] for item in range(0, ITEMS - 1, 2)],
        [[0, item] for item in range(1, ITEMS)],
        [list(range(ITEMS))],
        [[0, 1, 2, 3]],
        random_histories(),
    ],
    ids=["nobody", "alone", "twice", "pairs", "star", "complete", "few", "random"],
)
@pytest.mark.parametrize("dense", [0, 500])
def test_every_graph_gives_ids(histories, dense, monkeypatch):
    monkeypatch.setattr(clustering, "DENSE", dense)
    for clusters, tokens in ((2, 3), (3, 5), (4, 40)):
        path_NL = ids_of(*histories, clusters=clusters, tokens=tokens)
        assert_ids(path_NL, tokens)
    deepest = ids_of(*histories, clusters=2, tokens=3).shape[1]
    assert deepest <= clustering.SPECTRAL_LEVELS + 5  # what is left is dealt out evenly


def test_the_seed_decides_last_tokens_alone_and_loose_items_are_by_themselves():
    histories = random_histories()
    first, again, other = (ids_of(*histories, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    last_N = (first != NONE).sum(axis=1) - 1
    for path_NL in (first, other):
        path_NL[np.arange(ITEMS), last_N] = 0
    np.testing.assert_array_equal(first, other)
    loose = first[ITEMS - 3 :, 0]
    assert len(set(loose)) == 1 and loose[0] not in first[: ITEMS - 3, 0]


def test_both_ways_to_eigenvectors_cut_alike(monkeypatch):
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(5), 40)
    likely = np.where(group[:, None] == group, 0.4, 0.02)
    edges = np.zeros((206, 206))  # behind the groups three pairs that belong to nothing
    edges[:200, :200] = np.triu(generator.random((200, 200)) < likely, 1)
    edges[[200, 202, 204], [201, 203, 205]] = 1
    graph = csr_matrix(edges + edges.T)
    labels = [spectral_labels(graph, 5)]
    monkeypatch.setattr(clustering, "DENSE", 0)
    labels.append(spectral_labels(graph, 5))
    for label in labels:
        pairs = set(zip(label[:200].tolist(), group.tolist(), strict=True))
        assert len(pairs) == 5  # the planted groups, up to their numbers


def test_numbers_in_the_order_of_appearance():
    path_NL = sequential_ids(sequences([4, 2], [2, 0, 4], [3]), 6, 2)
    assert path_NL.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 1]]


PATHS = np.array([[0, 2, NONE], [0, 1, NONE], [1, 0, 2], [1, 0, 1]])


def network(paths=PATHS, numbers=3, module=p5_cid, **settings):
    torch.manual_seed(0)
    config = module.Config(**{**SMALL, **settings})
    if module is p5_cid:
        counts = np.arange(len(paths), dtype=np.float32)
        return generative.Network(ItemIds.of(paths, numbers), counts, PLACES, config).eval()
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(len(paths), 4)).astype(np.float32)
    present = np.arange(len(paths)) > 0
    vectors[~present] = 0
    ids, counts = ItemIds.of(paths, numbers, config.visual), np.ones(len(paths), np.float32)
    return vip5.Network(ids, counts, Modality(vectors, present), PLACES, config).eval()


def test_tokens_of_items_and_histories_by_hand():
    ids = ItemIds.of(PATHS, 3, visual=1)
    zero, one, two = (FIRST_CODE + number for number in range(3))
    expected = [[zero, two, PAD, VISUAL], [zero, one, PAD, VISUAL], [one, zero, two, VISUAL]]
    assert ids.source_MT.tolist() == [*expected, [one, zero, one, VISUAL], [PAD] * 4]
    assert ids.target_NL.tolist() == [[zero, STAY, two], [zero, STAY, one], [one, zero, two],
                                      [one, zero, one]]  # fmt: skip
    assert ids.tokens == FIRST_CODE + 3
    net = network()
    source = net.source(torch.tensor([[2, 0], [1, 4]]))
    assert source.token_BJ.tolist() == [[one, zero, two, zero, two, EOS],
                                        [zero, one, EOS, PAD, PAD, PAD]]  # fmt: skip
    assert source.item_BJ[0].tolist() == [2, 2, 2, 0, 0, 4]
    assert source.item_BJ[1, :3].tolist() == [1, 1, 4]
    assert source.word_BJ[0].tolist() == [2, 2, 2, 1, 1, 0]  # from the end
    assert source.word_BJ[1, :3].tolist() == [1, 1, 0]
    first_D = net.t5.shared.weight[one] + net.word.weight[2]
    torch.testing.assert_close(net.embedded(source)[0, 0], first_D)


def test_every_item_but_the_first_is_a_target_with_what_stands_before_it():
    training, seen = sequences([3, 1, 4, 1], [], [5], [2, 6]), []
    found = every_target(training, 2)
    for rows in shuffle_windows(found, 3, 9, np.random.default_rng(0)):  # of two lengths
        history_BS, target_B = generative.history_and_target(rows, 9)
        for history, target in zip(history_BS, target_B, strict=True):
            seen.append((*history[history < 9].tolist(), int(target)))
    assert sorted(seen) == [(1, 4, 1), (2, 6), (3, 1), (3, 1, 4)]


def catalogue(module=p5_cid, **settings):
    """A network far from uniform over a catalogue, and histories."""
    paths = ids_of(*random_histories(), clusters=3, tokens=6)
    net = network(paths, 6, module, **settings)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)
    generator = np.random.default_rng(1)
    return net, [generator.integers(0, ITEMS, n).astype(np.int32) for n in (1, 6, 3, 2)]


@pytest.mark.parametrize("module", [p5_cid, vip5])
def test_the_loss_is_what_the_scores_say_and_rows_do_not_see_each_other(module):
    net, histories = catalogue(module)
    model = Generator(net, module.Config(**SMALL, beams=500), CPU)
    assert model.exhaustive
    scores_BN = model.score_all(histories)
    target_B = np.array([4, 29, 11, 0])
    loss = net.loss(*map(torch.from_numpy, (pad_histories(histories, ITEMS).item_BS, target_B)))
    expected = -scores_BN[np.arange(4), target_B].mean() / net.target_NL.shape[1]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert (np.exp(scores_BN).sum(axis=1) <= 1).all()
    alone = np.concatenate([model.score_all([history]) for history in histories])
    np.testing.assert_allclose(alone, scores_BN, atol=1e-4)
    assert np.ptp(scores_BN, axis=0).min() > 1e-3  # and they depend on the history


@pytest.mark.parametrize("module", [p5_cid, vip5])
def test_low_precision_is_of_the_training_alone_and_near(module):
    exact, histories = catalogue(module, dropout=0.0)
    low, _ = catalogue(module, dropout=0.0, precision="bfloat16")
    rows = torch.from_numpy(pad_histories(histories, ITEMS).item_BS), torch.tensor([4, 29, 11, 0])
    assert torch.equal(low.loss(*rows), exact.loss(*rows))
    gradients = []
    for net in (exact.train(), low.train()):
        net.loss(*rows).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    wanted, found = gradients
    assert found.dtype == torch.float32 and not torch.equal(found, wanted)
    assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("module", [p5_cid, vip5])
def test_embeddings_have_a_multiple_of_the_rate(module, tmp_path):
    net, _ = catalogue(module, dropout=0.0)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    rates = {"learning_rate": 0.001, "embedding_rate": 5.0, "weight_decay": 0.0}
    config = module.Config(**{**SMALL, "batch_size": 10_000, **rates})  # one step
    generative.train(net, config, data(tmp_path), schedule(epochs=1), CPU)
    moved = {n: float((w.detach() - before[n]).abs().max()) for n, w in net.named_parameters()}
    fast = {"t5.shared.weight", "word.weight", "category.weight"} & set(moved)
    assert len(fast) == (3 if module is vip5 else 2)
    for name, distance in moved.items():  # the first step of AdamW is as long as the rate
        if distance > 0:
            assert distance == pytest.approx(0.005 if name in fast else 0.001, rel=0.01), name


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_bfloat16_is_warned_of_where_it_costs_time(precision, tmp_path, slow_bfloat16):
    net, _ = catalogue()
    config = p5_cid.Config(**SMALL | {"batch_size": 10_000}, precision=precision)
    generative.train(net, config, data(tmp_path), schedule(epochs=1), CPU)
    assert slow_bfloat16() == (precision == "bfloat16")


def test_what_the_beams_miss_follows_by_popularity():
    net, histories = catalogue()
    exact = Generator(net, p5_cid.Config(**SMALL, beams=500), CPU).score_all(histories)
    model = Generator(net, p5_cid.Config(**SMALL, beams=3), CPU)
    assert not model.exhaustive
    scores_BN = model.score_all(histories)
    assert scores_BN.shape == (4, ITEMS) and np.isfinite(scores_BN).all()
    for score_N, exact_N in zip(scores_BN, exact, strict=True):
        order = np.argsort(-score_N, kind="stable")
        found, rest = order[:3], order[3:]
        np.testing.assert_allclose(score_N[found], exact_N[found], atol=1e-4)
        assert score_N[rest].max() < score_N[found].min() - 0.5
        assert rest.tolist() == sorted(set(range(ITEMS)) - set(found), reverse=True)  # the count


def test_a_visual_token_is_a_mapping_of_the_vector_and_categories_differ():
    net = network(PATHS, 3, vip5, visual=2)
    source = net.source(torch.tensor([[2, 0]]))
    x_JD = net.embedded(source)[0]
    picture_PD = net.pictures.map(net.pictures.vector_NE[2]).view(2, -1)
    none_PD = net.pictures.none.view(2, -1)  # item 0 has no picture
    token_VD = net.t5.shared.weight
    ids = {item: token_VD[net.source_MT[item, :-2][net.source_MT[item, :-2] != PAD]]
           for item in (0, 2)}  # fmt: skip
    parts = [(ids[2], 2, 0), (picture_PD, 2, 1), (ids[0], 1, 0), (none_PD, 1, 1),
             (token_VD[[EOS]], 0, 0)]  # fmt: skip
    expected = [p + net.word.weight[word] + net.category.weight[c] for p, word, c in parts]
    torch.testing.assert_close(x_JD, torch.cat(expected))


def test_an_item_without_a_picture_is_masked():
    net, _ = catalogue(vip5)
    model = Generator(net, vip5.Config(**SMALL, beams=500), CPU)
    before = model.score_all([np.array([0, 5], np.int32)])
    with torch.no_grad():
        net.pictures.vector_NE[0] += 100.0  # the row of an item without a picture
    np.testing.assert_array_equal(model.score_all([np.array([0, 5], np.int32)]), before)
    with torch.no_grad():
        net.pictures.vector_NE[5] += 1.0
    assert np.abs(model.score_all([np.array([0, 5], np.int32)]) - before).max() > 1e-3
    weights = net.pictures.none, net.pictures.map[0].weight
    for history, learns in (([0], (True, False)), ([5], (False, True)), ([0, 5], (True, True))):
        net.zero_grad()
        net.loss(torch.tensor([history]), torch.tensor([3])).backward()
        assert tuple(bool(weight.grad.abs().sum() > 0) for weight in weights) == learns


def schedule(**others):
    limits = {"epochs": 1, "patience": 2, "decay": 0.0, "validate_every": 1}
    given = {"seed": 0, "device": "cpu", "validate": lambda model: 0.0}
    return TrainingSchedule(**{**limits, **given, **others})


def data(tmp_path, items=ITEMS, rows=ITEMS):
    with_vectors(tmp_path, image=random_vectors(rows)["image"])
    given = {"image_embeddings": Artifact.open(tmp_path / "image_embeddings")}
    return Data(items, sequences(*random_histories()), PLACES, given)


@pytest.mark.parametrize("name", ["p5_cid", "vip5"])
def test_training_is_repeated_by_the_seed_and_saved_models_score_alike(name, tmp_path):
    module, given = registry.baseline(name), data(tmp_path)
    config = module.Config(**{**SMALL, "dropout": 0.2, "tokens": 21})
    fitted = [module.fit(config, given, schedule(seed=seed)) for seed in (1, 1, 2)]
    histories = [np.array([3, 0, 7], np.int32)]
    one, same, other = (f.model.score_all(histories) for f in fitted)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    saved = module.load(config, given._replace(given={}), fitted[0].model.state())
    np.testing.assert_array_equal(saved.score_all(histories), one)
    cut = module.fit(config, given, schedule(epochs=9, out_of_time=lambda: True))
    assert cut.cut and len(cut.curve) == 1


def test_collaborative_paths_can_be_set_for_visual_tokens(tmp_path):
    fits = [
        vip5.fit(vip5.Config(**SMALL, tokens=21, ids=ids), data(tmp_path / ids), schedule())
        for ids in ("sequential", "collaborative")
    ]
    sequential, collaborative = (fit.model.network.target_NL for fit in fits)
    assert sequential.shape[1] == 2 and not torch.equal(sequential, collaborative)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (p5_cid, {"clusters": 100}, "p5_cid: clusters is not below tokens"),
        (p5_cid, {"clusters": 1}, "clusters is below 2"),
        (p5_cid, {"width": 30}, "width is no multiple of heads"),
        (vip5, {"beams": 0, "visual": 9}, r"beams is below 1; visual is outside 1\.\.8"),
        (vip5, {"tokens": 20}, "tokens is not above 20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(module, settings, message):
    with pytest.raises(UserError, match=message):
        module.Config(**settings)


def test_vectors_of_another_catalogue_are_refused(tmp_path):
    with pytest.raises(UserError, match="20 rows for 30 items"):
        vip5.fit(vip5.Config(**SMALL), data(tmp_path, rows=20), schedule())
