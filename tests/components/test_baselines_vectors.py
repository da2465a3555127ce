"""Vectors of the items in the baselines: read, standardised, clustered; FDSA and MISSRec."""

import numpy as np
import pytest
import torch

from components.baselines import baseline_vectors, fdsa, missrec
from components.baselines.baseline_vectors import Clusters, Modality, Projection
from components.baselines.interface import Data
from macrec.core.errors import UserError
from macrec.data.sequences import Sequences
from tests import planted_sequences as planted
from tests.planted_sequences import run, with_vectors

pytestmark = pytest.mark.usefixtures("one_thread")

N, HISTORY = 12, 6


def data(given=None, items=N):
    nobody = Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64))
    return Data(items, nobody, HISTORY, given or {})


def modalities():
    """Item 7 has no text, item 8 no image, item 9 neither."""
    generator = np.random.default_rng(0)
    found = {}
    for name, width, absent in (("image", 4, (8, 9)), ("text", 5, (7, 9))):
        present_N = ~np.isin(np.arange(N), absent)
        matrix_NE = generator.normal(size=(N, width)).astype(np.float32) * present_N[:, None]
        found[name] = Modality(matrix_NE, present_N)
    return found


def small(module, given=None):
    torch.manual_seed(0)
    given = given or modalities()
    config = module.Config(width=8, inner=8, layers=2, heads=2)
    if module is fdsa:
        model = fdsa.Fdsa(given, config, data(), torch.device("cpu"))
    else:
        wide = missrec.Config(interest_share=0.4)
        clusters = [missrec.find_interests(m, wide, 0) for m in modalities().values()]
        model = missrec.MissRec(given, clusters, config, data(), torch.device("cpu"))
    with torch.no_grad():  # larger than at the start, so that what is seen makes itself felt
        for weight in model.network.parameters():
            weight.mul_(5).add_(0.1 * torch.randn_like(weight))
    model.network.eval()
    return model


BOTH = pytest.mark.parametrize("module", [fdsa, missrec])


def test_a_vector_stays_with_its_item_and_a_missing_one_is_nothing(tmp_path):
    rows = {"text": [[3.0, 4.0], None, [0.0, 2.0], None, [5.0, 0.0]]}
    with_vectors(tmp_path, **rows)
    opened = planted.Artifact.open(tmp_path / "text_embeddings")
    found = baseline_vectors.read_modalities(data({"text_embeddings": opened}, items=5))
    matrix_NE, present_N = found["text_embeddings"]
    assert present_N.tolist() == [True, False, True, False, True]
    assert not matrix_NE[~present_N].any()
    unit = np.array([[0.6, 0.8], [0, 1], [1, 0]])
    centred = unit - unit.mean(0)
    np.testing.assert_allclose(matrix_NE[present_N], centred / np.sqrt((centred**2).mean()), 1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0], [2.0]], "2 rows for 3 items"),
        ([[1.0], [float("nan")], None], "1 of 3 vectors are not finite"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(tmp_path, rows, message):
    with_vectors(tmp_path, image=rows)
    opened = planted.Artifact.open(tmp_path / "image_embeddings")
    with pytest.raises(UserError, match=message):
        baseline_vectors.read_modalities(data({"image_embeddings": opened}, items=3))


def test_a_modality_without_any_vector_is_refused(tmp_path):
    rows = [None, None]
    columns = [[0, 1], rows, ["missing"] * 2]
    opened = planted.dataset(tmp_path / "text", planted.schema.embeddings(3), columns)
    with pytest.raises(UserError, match="none of 2 items has a vector"):
        baseline_vectors.read_modalities(data({"text_embeddings": opened}, items=2))


def test_clusters_are_the_planted_groups_and_nothing_without_a_vector():
    generator = np.random.default_rng(0)
    group_N = generator.integers(0, 4, 60)
    present_N = np.arange(60) % 7 != 0
    noise_NE = 0.1 * generator.normal(size=(60, 4))
    matrix_NE = ((np.eye(4)[group_N] + noise_NE) * present_N[:, None]).astype(np.float32)
    label_N, centre_KE = baseline_vectors.cluster_items(Modality(matrix_NE, present_N), 4, 0)
    assert (label_N[~present_N] == -1).all() and (label_N[present_N] >= 0).all()
    pairs = set(zip(label_N[present_N].tolist(), group_N[present_N].tolist(), strict=True))
    assert len(pairs) == 4
    for label, group in pairs:
        members = present_N & (group_N == group)
        np.testing.assert_allclose(centre_KE[label], matrix_NE[members].mean(0), atol=1e-5)
    assert (
        len(baseline_vectors.cluster_items(Modality(matrix_NE[:3], present_N[:3]), 9, 0).centre_KE)
        == 2
    )


def test_the_projection_of_a_missing_vector_is_zero_and_so_is_that_of_padding():
    project = Projection(modalities(), 8)
    torch.nn.init.ones_(project.layers[0].bias)
    found = project(torch.tensor([7, 8, 9, N, 2]))
    assert found.present_PM.tolist() == [[True, False], [False, True]] + [[False] * 2] * 2 + [
        [True, True]
    ]
    assert not found.vector_PMD[~found.present_PM].any()
    expected = project.layers[1](torch.from_numpy(modalities()["text"].matrix_NE[2]))
    torch.testing.assert_close(found.vector_PMD[4, 1], expected)


def test_features_of_fdsa_are_weighed_and_missing_ones_are_not():
    features = small(fdsa).network.features
    found = features(torch.tensor([2, 7, 9, N]))
    vector_PMD = features.project(torch.tensor([2, 7])).vector_PMD
    alpha = torch.softmax(features.weigh(vector_PMD[0])[:, 0], 0)
    torch.testing.assert_close(found[0], alpha @ vector_PMD[0])
    torch.testing.assert_close(found[1], vector_PMD[1, 0])  # the image alone
    torch.testing.assert_close(found[2], features.none)
    torch.testing.assert_close(found[3], features.none)
    assert features.none.abs().min() > 1e-4
    features(torch.tensor([9, 2])).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in features.parameters())


@BOTH
def test_scores_depend_on_the_history_and_not_on_who_shares_the_batch(module):
    model = small(module)
    histories = [np.array(h, np.int32) for h in ([9], [1, 2, 9, 4, 5, 6], [7, 3, 2])]
    together = model.score_all(histories)
    alone = np.concatenate([model.score_all([history]) for history in histories])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.ptp(together, axis=0).min() > 1e-3


@BOTH
def test_a_place_knows_nothing_of_the_items_behind_it(module):
    network, length = small(module).network, torch.tensor([5])
    before = network(torch.tensor([[1, 5, 9, 8, 2]]), length)[0].detach()
    after = network(torch.tensor([[1, 5, 9, 8, 4]]), length)[0].detach()
    torch.testing.assert_close(before[:4], after[:4])
    assert (before[4] - after[4]).abs().max() > 1e-3


@BOTH
def test_what_a_model_knows_of_an_item_is_its_own_vector(module):
    other = modalities()
    for name, item in (("image", 1), ("text", 2)):
        other[name].matrix_NE[item] += 1
    history = [np.array([3, 7, 9, 8], np.int32)]
    scores, changed = (small(module, given).score_all(history)[0] for given in (None, other))
    same = np.isin(np.arange(N), (1, 2), invert=True)
    np.testing.assert_allclose(scores[same], changed[same], atol=1e-4)


def test_an_interest_stands_once_in_the_order_in_which_it_came():
    given = modalities()
    labels = [
        np.array([0, 1, 0, 1, 0, 1, 0, 1, -1, -1, 0, 1]),
        np.array([0] * 7 + [-1, 1, -1, 1, 1]),
    ]
    clusters = [Clusters(label_N, np.zeros((2, m.matrix_NE.shape[1]), np.float32))
                for label_N, m in zip(labels, given.values(), strict=True)]  # fmt: skip
    network = missrec.Network(given, clusters, data(), missrec.Config(width=8, heads=2))
    found = network.interests(torch.tensor([[2, 9, 7, 8, N]]))
    tokens = found.token_BT[0][found.valid_BT[0]].tolist()
    assert tokens == [0, 1, 3, 2, 4]  # the first, image 0, text 0, image 1 of item 7, text 1 of 8
    assert found.time_T[found.valid_BT[0]].tolist() == [-1, 0, 0, 2, 3]
    seen = found.seen(torch.arange(5))[0].sum(1)
    assert seen.tolist() == [3, 3, 4, 5, 5]
    again = network.interests(torch.tensor([[2, 4, 2, 0, 6]]))
    assert again.token_BT[0][again.valid_BT[0]].tolist() == [0, 1, 3]


def test_modalities_are_fused_by_the_equation_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    cosine_PMN = 2 * torch.rand(3, 2, N, generator=generator, dtype=torch.float64) - 1
    factor = torch.tensor(1.7, dtype=torch.float64)
    present_MN = torch.ones(2, N, dtype=torch.bool)
    present_MN[0, 3] = present_MN[:, 4] = False
    fused_PN = missrec.Fusion.apply(cosine_PMN, present_MN, factor)
    expected = (torch.softmax(factor * cosine_PMN, 1) * cosine_PMN).sum(1)
    expected[:, 3], expected[:, 4] = cosine_PMN[:, 1, 3], 0
    torch.testing.assert_close(fused_PN, expected)
    inputs = (cosine_PMN.requires_grad_(), present_MN, factor.requires_grad_())
    assert torch.autograd.gradcheck(missrec.Fusion.apply, inputs)
    everything = (inputs[0], None, inputs[2])
    assert torch.autograd.gradcheck(missrec.Fusion.apply, everything)


def test_a_candidate_without_vectors_is_scored_by_its_embedding_alone():
    network = small(missrec).network
    state = torch.nn.functional.normalize(torch.randn(1, 8), dim=1)
    score_N = network.scores(state)[0] * network.temperature
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(score_N[9], cosine(state[0], network.item.weight[9], 0))
    vector_MD = network.project(torch.tensor([7])).vector_PMD[0]
    by_id, by_image = (cosine(state[0], x, 0) for x in (network.item.weight[7], vector_MD[0]))
    torch.testing.assert_close(score_N[7], (by_id + 2 * by_image) / 3)


GROUPS, COLD, WARM = 5, 30, 60
"""Groups of items; items that stand in no training part; items in all."""


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """After any item of group g comes item g; the last question is put with an item never seen."""
    generator = np.random.default_rng(0)
    items = np.arange(WARM + COLD)
    matrix = np.eye(GROUPS)[items % GROUPS] + 0.1 * generator.normal(size=(len(items), GROUPS))
    histories = []
    for _ in range(200):
        asked = [*generator.integers(GROUPS, WARM, 3), generator.integers(WARM, WARM + COLD)]
        histories.append([int(i) for item in asked for i in (item, item % GROUPS)])
    path = planted.prepared(tmp_path_factory.mktemp("grouped"), histories, items=len(items))
    rows = matrix.astype(np.float32).tolist()
    return with_vectors(path, text=rows, image=rows)


@pytest.mark.parametrize(("name", "hits"), [("fdsa", True), ("missrec", True), ("sasrec", False)])
def test_a_model_learns_what_only_the_vectors_tell(grouped, tmp_path, name, hits):
    settings = ("width=32", "inner=32", "dropout=0.1", "learning_rate=0.01", "batch_size=32")
    done = run(grouped, tmp_path, name, *settings, epochs=8, validate_every=8)
    assert done.metrics["hr_1"] > 0.8 if hits else done.metrics["hr_1"] < 0.4
