import logging

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from components.embed_histories import history_vectors as embedding
from components.embed_histories import spec, stage
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.cooccurrence import count_neighbours
from macrec.data.sequences import Sequences
from tests.artifacts import dataset
from tests.jobs import job

HELD_OUT = [0, 1]  # what a history ends with in tests of its training part


def run(path, items, histories, **config):
    """The artifact and the metrics; the items are called i0, i1, ..."""
    ids = [f"i{k}" for k in range(items)]
    nothing, none = [""] * items, [None] * items
    columns = [np.arange(items, dtype=np.int32), ids, nothing, nothing, none, [False] * items]
    users = [f"u{k}" for k in range(len(histories))]
    log = [users, [list(h) for h in histories], [None] * len(users)]
    output = DatasetOutput(path / "history_embeddings")
    output.prepare()
    metrics = stage.run(
        job(
            spec.Settings(**config),
            spec.Inputs(
                items=dataset(path / "items", schema.ITEMS, columns),
                sequences=dataset(path / "sequences", schema.SEQUENCES, log),
            ),
            spec.Outputs(history_embeddings=output),
            spec.Execution(),
        )
    )
    output.commit({})
    return Artifact.open(output.path), metrics


def vectors(artifact):
    """The embeddings [N, D], NaN where there is none."""
    rows = artifact.table().to_pydict()["embedding"]
    dim = artifact.schema.field("embedding").type.list_size
    return np.array([[np.nan] * dim if row is None else row for row in rows])


def met(artifact):
    return artifact.table().to_pydict()["met"]


def random_log(items, users, seed=0, most=14):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, items, rng.integers(1, most)).tolist() for _ in range(users)]


def counted(items, histories, window):
    """Plain loops over what training may see."""
    counts_NN = np.zeros((items, items))
    for history in histories:
        training = history[: max(len(history) - 2, 0)]
        for place, a in enumerate(training):
            for b in training[place + 1 : place + 1 + window]:
                if a != b:
                    counts_NN[a, b] += 1
                    counts_NN[b, a] += 1
    return counts_NN


def information(counts_NN):
    """Positive pointwise mutual information by its formula."""
    met_N = counts_NN.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values_NN = np.log(counts_NN * met_N.sum() / np.outer(met_N, met_N))
    return np.where(counts_NN > 0, values_NN, 0).clip(0)


def inner(histories, items, window):
    """The counts of the stage, in full."""
    flat = np.array([k for h in histories for k in h], np.int32)
    offsets = np.cumsum([0, *(len(h) for h in histories)])
    training = Sequences(flat, offsets).training()
    upper_NN = count_neighbours(training, items, window).toarray()
    assert not np.tril(upper_NN).any()
    return upper_NN + upper_NN.T


def test_information_of_a_tiny_log_by_hand(tmp_path):
    # Within one place: 0-1 twice, 1-2 once, 2-3 once. Met: 2, 3, 2, 1; total 8.
    histories = [[0, 1, 2, *HELD_OUT], [1, 0, *HELD_OUT], [2, 3, *HELD_OUT]]
    counts_NN = inner(histories, 4, 1)
    assert counts_NN.tolist() == [[0, 2, 0, 0], [2, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    met_N = counts_NN.sum(0)
    found_NN = embedding.positive_information(
        embedding.sparse.csr_array(np.triu(counts_NN)), met_N
    ).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = np.log(2 * 8 / (2 * 3))
    expected[1, 2] = np.log(1 * 8 / (3 * 2))
    expected[2, 3] = np.log(1 * 8 / (2 * 1))
    np.testing.assert_allclose(found_NN, expected + expected.T, rtol=1e-6)
    artifact, metrics = run(tmp_path, 4, histories, window=1, dim=2)
    assert met(artifact) == [2, 3, 2, 1]
    assert (metrics["interactions"], metrics["pairs"], metrics["items_met"]) == (7, 3, 4)


def test_pairs_that_chance_explains_say_nothing():
    counts_NN = np.array([[0, 9, 9, 1], [9, 0, 1, 9], [9, 1, 0, 9], [1, 9, 9, 0]])
    upper_NN = embedding.sparse.csr_array(np.triu(counts_NN))
    found_NN = embedding.positive_information(upper_NN, counts_NN.sum(0))
    assert found_NN.toarray()[0, 3] == 0  # log(1 * 76 / 19^2) is negative
    np.testing.assert_allclose(found_NN.toarray(), information(counts_NN), rtol=1e-6)


@pytest.mark.parametrize("window", [1, 3, 100])
def test_vectors_are_those_of_a_dense_decomposition(tmp_path, window):
    histories = random_log(12, 40)
    artifact, metrics = run(tmp_path, 12, histories, window=window, dim=11)
    counts_NN = counted(12, histories, window)
    left, values, _ = np.linalg.svd(information(counts_NN))
    expected_ND = (left * values)[:, :11]
    expected_ND /= np.linalg.norm(expected_ND, axis=1, keepdims=True)
    found_ND = vectors(artifact)
    np.testing.assert_allclose(found_ND @ found_ND.T, expected_ND @ expected_ND.T, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found_ND, axis=1), 1, rtol=1e-6)
    assert met(artifact) == counts_NN.sum(0).tolist()
    assert metrics["energy"] == pytest.approx((values[:11] ** 2).sum() / (values**2).sum())
    assert metrics["pairs"] == np.triu(counts_NN > 0).sum()
    assert metrics["dim"] == 11 and metrics["items_without"] == 0


@pytest.mark.parametrize("place", [-1, -2])
def test_validation_and_test_items_change_no_byte(tmp_path, place):
    histories = random_log(12, 40)
    before, metrics = run(tmp_path / "before", 12, histories, dim=4)
    rng = np.random.default_rng(1)
    for history in histories:
        if len(history) >= 2:
            history[place] = int((history[place] + rng.integers(1, 12)) % 12)
    after, figures = run(tmp_path / "after", 12, histories, dim=4)
    assert (after.digest, figures) == (before.digest, metrics)
    histories = [[*h[:-3], (h[-3] + 1) % 12, *h[-2:]] if len(h) > 2 else h for h in histories]
    assert run(tmp_path / "train", 12, histories, dim=4)[0].digest != before.digest


def test_short_histories_have_no_training_part(tmp_path):
    training = [[0, 1, 2, *HELD_OUT]]
    alone, _ = run(tmp_path / "alone", 4, training, dim=2)
    beside, metrics = run(tmp_path / "beside", 4, [[3], [3, 0], [], *training, [3, 0, 1]], dim=2)
    assert beside.digest == alone.digest
    assert metrics["interactions"] == 4  # the 3 of the last history stands beside nothing


@pytest.mark.parametrize(
    ("window", "expected"), [(1, [1, 2, 2, 1]), (2, [2, 3, 3, 2]), (3, [3] * 4)]
)
def test_window(tmp_path, window, expected):
    artifact, _ = run(tmp_path, 4, [[0, 1, 2, 3, *HELD_OUT]], window=window)
    assert met(artifact) == expected


def test_neighbours_are_of_one_user():
    histories = [[0, 1, *HELD_OUT], [2, 3, *HELD_OUT]]
    assert inner(histories, 4, 3).sum(0).tolist() == [1, 1, 1, 1]


def test_repeats_of_an_item_are_not_its_neighbours(tmp_path):
    artifact, metrics = run(tmp_path, 3, [[0, 0, 1, 0, *HELD_OUT], [2, 2, 2, *HELD_OUT]])
    assert met(artifact) == [3, 3, 0]
    assert metrics["pairs"] == 1
    assert artifact.table().to_pydict()["embedding"][2] is None


def test_items_that_stand_near_no_other_have_no_vector(tmp_path):
    histories = [[0, 2, 3, *HELD_OUT], [2, 3, 0, *HELD_OUT], [5, *HELD_OUT]]
    artifact, metrics = run(tmp_path, 6, histories, dim=2)
    table = artifact.table().to_pydict()
    assert [row is None for row in table["embedding"]] == [False, True, False, False, True, True]
    assert [count > 0 for count in table["met"]] == [True, False, True, True, False, False]
    assert table["item_index"] == list(range(6))
    assert table["item_id"] == [f"i{k}" for k in range(6)]
    assert artifact.schema.equals(schema.histories(2))
    assert (metrics["items"], metrics["items_met"], metrics["items_without"]) == (6, 3, 3)


def test_an_item_that_the_components_leave_out_has_no_vector(tmp_path):
    histories = [*random_log(400, 400), [400, 401, *HELD_OUT]]
    artifact, metrics = run(tmp_path, 402, histories, dim=16)
    absent_N = np.isnan(vectors(artifact)).any(1)
    assert met(artifact)[400:] == [1, 1]
    assert absent_N.tolist() == [count == 0 for count in met(artifact)[:400]] + [True, True]
    assert metrics["items_met"] + metrics["items_without"] == 402 + 2


def test_off_reads_no_history(tmp_path):
    broken = [[99, -5, 7, 1, 0]]
    off = [
        run(tmp_path / str(k), 4, histories, dim=0)
        for k, histories in enumerate([[[0, 1, 2, *HELD_OUT]], broken])
    ]
    assert off[0][0].digest == off[1][0].digest
    assert off[0][1] == off[1][1]
    table = off[0][0].table().to_pydict()
    assert table["embedding"] == [None] * 4 and table["met"] == [0] * 4
    assert off[0][0].schema.equals(schema.histories(1))
    assert off[0][1] == {
        "items": 4,
        "items_met": 0,
        "items_without": 4,
        "interactions": 0,
        "pairs": 0,
        "dim": 0,
        "energy": 0,
    }


@pytest.mark.parametrize("histories", [[], [[0, 1]], [[0, *HELD_OUT], [2, 2, 2, *HELD_OUT]]])
def test_no_neighbours_at_all(tmp_path, histories, caplog):
    with caplog.at_level(logging.WARNING, "macrec"):
        artifact, metrics = run(tmp_path, 3, histories)
    assert artifact.table().to_pydict()["embedding"] == [None] * 3
    assert artifact.schema.equals(schema.histories(1))
    assert metrics["items_without"] == 3 and metrics["dim"] == metrics["pairs"] == 0
    assert "no two items occur near each other" in caplog.text


@pytest.mark.parametrize("items", [2, 3, 9])
def test_small_logs_have_fewer_components(tmp_path, items, caplog):
    histories = [[*range(items), *HELD_OUT], [*range(0, items, 2), *HELD_OUT]]
    with caplog.at_level(logging.WARNING, "macrec"):
        artifact, metrics = run(tmp_path, items + 4, histories)
    assert artifact.schema.equals(schema.histories(items - 1))
    assert metrics["dim"] == items - 1
    assert f"{items - 1} components instead of 64, because only {items} items" in caplog.text


@pytest.mark.parametrize("pairs_at_once", [1, 7, 50])
def test_blocks_count_the_same(tmp_path, monkeypatch, pairs_at_once):
    histories = random_log(12, 40)
    whole = run(tmp_path / "whole", 12, histories, dim=4)
    monkeypatch.setattr("macrec.data.cooccurrence.PAIRS_AT_ONCE", pairs_at_once)
    parts = run(tmp_path / "parts", 12, histories, dim=4)
    assert parts[0].digest == whole[0].digest and parts[1] == whole[1]


def test_vectors_depend_on_the_seed_and_not_on_the_threads(tmp_path):
    histories = random_log(2000, 2000, most=20)
    digests = []
    for number, (threads, seed) in enumerate([(1, 0), (2, 0), (4, 0), (1, 1)]):
        with threadpool_limits(threads):
            artifact, _ = run(tmp_path / str(number), 2000, histories, seed=seed)
        digests.append(artifact.digest)
    assert digests[0] == digests[1] == digests[2]
    assert digests[0] != digests[3]


def test_items_of_one_community_are_nearest_neighbours(tmp_path):
    rng = np.random.default_rng(0)
    community_N = np.arange(40) % 2
    # The held-out items are always of the other community.
    histories = [
        [*(2 * rng.integers(0, 20, 8) + user % 2), *(2 * rng.integers(0, 20, 2) + 1 - user % 2)]
        for user in range(200)
    ]
    stray = rng.random((200, 8)) < 0.1
    for user, place in zip(*np.nonzero(stray), strict=True):
        histories[user][place] = int(rng.integers(0, 40))
    matrix_ND = vectors(run(tmp_path, 40, histories, dim=4)[0])
    likeness_NN = matrix_ND @ matrix_ND.T - 2 * np.eye(40)
    assert (community_N[likeness_NN.argmax(1)] == community_N).all()


@pytest.mark.parametrize("broken", [-1, 5])
@pytest.mark.parametrize("place", [0, 3])
def test_items_outside_the_catalogue_are_refused(tmp_path, broken, place):
    history = [0, 1, 2, 3]
    history[place] = broken
    message = r"sequences: 1 of 8 interactions refer to items outside 0\.\.4, the catalogue"
    with pytest.raises(UserError, match=message):
        run(tmp_path, 5, [[0, 1, 2, 3], history])


@pytest.mark.parametrize("config", [{"dim": -1}, {"window": 0}, {"seed": -1}])
def test_config_is_checked(config):
    with pytest.raises(UserError, match=next(iter(config))):
        spec.Settings(**config)


def test_met_stops_at_the_largest_int32(tmp_path, monkeypatch):
    real = stage.embed
    huge = 2**40
    monkeypatch.setattr(
        stage, "embed", lambda *given: real(*given)._replace(met_N=np.full(3, huge))
    )
    artifact, _ = run(tmp_path, 3, [[0, 1, 2, *HELD_OUT]])
    assert met(artifact) == [2**31 - 1] * 3
