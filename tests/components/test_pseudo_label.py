import logging

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from components.pseudo_label import spec, stage
from components.pseudo_label.clustering import automatic_clusters, cap_clusters
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.data import schema, vectors
from macrec.data.columns import vector_column
from tests.jobs import job

STREAMED = {"minibatch_above": 0, "batch_items": 64, "passes": 4}


def embeddings(path, matrix_ND, valid_N=None):
    valid_N = np.ones(len(matrix_ND), bool) if valid_N is None else valid_N
    output = DatasetOutput(path)
    output.prepare()
    kind = schema.embeddings(matrix_ND.shape[1])
    index, status = np.arange(len(matrix_ND), dtype=np.int32), np.where(valid_N, "ok", "missing")
    with output.dataset(kind) as out:
        column = vector_column(matrix_ND, valid_N)
        out.write(pa.table([index, column, status.tolist()], schema=kind))
    output.commit({})
    return Artifact.open(path)


def run(path, text_ND, image_ND, *, text_valid=None, image_valid=None, **config):
    output = DatasetOutput(path / "pseudo_labels")
    output.prepare()
    metrics = stage.run(
        job(
            spec.Settings(**config),
            spec.Inputs(
                text_embeddings=embeddings(path / "text", text_ND, text_valid),
                image_embeddings=embeddings(path / "image", image_ND, image_valid),
            ),
            spec.Outputs(pseudo_labels=output),
            spec.Execution(),
        )
    )
    output.commit({})
    return Artifact.open(output.path).table().to_pydict(), metrics


def planted(groups_N, seed, dim=16):
    """Vectors in tight bundles of directions, whose lengths say nothing."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0][groups_N]
    vectors = directions + 0.05 * rng.normal(size=directions.shape)
    return (vectors * rng.uniform(0.1, 10, (len(groups_N), 1))).astype(np.float32)


def partition(labels):
    """The same for two labellings that differ in the names of the clusters only."""
    first = {}
    return [None if label is None else first.setdefault(label, len(first)) for label in labels]


@pytest.mark.parametrize("config", [{}, STREAMED], ids=["in_memory", "streamed"])
def test_planted_clusters_are_found_in_each_modality(tmp_path, config):
    rng = np.random.default_rng(0)
    # Sorted by group, as a catalogue is by category.
    text_groups, image_groups = np.sort(rng.integers(0, 8, 400)), rng.integers(0, 5, 400)
    config = {"min_items_per_cluster": 50, **config}  # K = 400 // 50 = 8, the planted number
    text = planted(text_groups, 1)
    table, metrics = run(tmp_path, text, planted(image_groups, 2), **config)
    assert table["item_index"] == list(range(400))
    assert partition(table["text_label"]) == partition(text_groups.tolist())
    pairs = set(zip(table["image_label"], image_groups.tolist(), strict=True))
    assert len(pairs) == len(set(table["image_label"]))  # no cluster mixes two planted ones
    assert metrics["text_items"] == 400
    assert metrics["text_clusters"] == metrics["text_clusters_used"] == 8
    assert metrics["text_largest_share"] == np.bincount(text_groups).max() / 400
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    centres = np.stack([unit[text_groups == k].mean(0) for k in range(8)])
    spread = np.square(unit - centres[text_groups]).sum(1).mean()
    assert metrics["text_inertia"] == pytest.approx(
        spread, rel=0.01 if config.get("passes") else 1e-4
    )


@pytest.mark.parametrize("config", [{}, STREAMED], ids=["in_memory", "streamed"])
def test_missing_vectors_get_no_label_and_change_no_other(tmp_path, config):
    groups = np.arange(200) % 4
    vectors, valid = planted(groups, 1), np.arange(200) % 3 > 0
    config = {"clusters": 4, **config}
    table, metrics = run(tmp_path, vectors, vectors, image_valid=valid, **config)
    assert [label is None for label in table["image_label"]] == (~valid).tolist()
    assert None not in table["text_label"]
    present = np.flatnonzero(valid)
    assert partition([table["image_label"][k] for k in present]) == partition(groups[present])
    assert metrics["image_items"] == valid.sum()
    assert metrics["image_largest_share"] == np.bincount(groups[valid]).max() / valid.sum()


def test_lengths_count_unless_vectors_are_normalised(tmp_path):
    direction = np.tile([[3.0, 4.0]], (40, 1)) + np.random.default_rng(0).normal(size=(40, 2)) / 100
    vectors = (direction * np.where(np.arange(40) % 2, 1, 100)[:, None]).astype(np.float32)
    config = {"clusters": 2, "normalise": False}
    table, _ = run(tmp_path / "raw", vectors, vectors, **config)
    assert partition(table["text_label"]) == [0, 1] * 20
    table, _ = run(tmp_path / "unit", vectors, vectors, clusters=2)
    assert partition(table["text_label"]) != [0, 1] * 20


def test_no_picture_at_all(tmp_path):
    vectors = planted(np.arange(40) % 4, 1)
    table, metrics = run(tmp_path, vectors, vectors, image_valid=np.zeros(40, bool))
    assert table["image_label"] == [None] * 40
    assert metrics["image_items"] == metrics["image_clusters"] == metrics["image_inertia"] == 0


@pytest.mark.parametrize("absent", ["text", "image"])
def test_one_modality_alone_gets_the_labels_it_has_beside_the_other(tmp_path, absent):
    vectors, nothing = planted(np.arange(40) % 4, 1), np.zeros((40, 1), np.float32)
    present = {"text": "image", "image": "text"}[absent]
    vectors_of = {f"{present}_ND": vectors, f"{absent}_ND": nothing}
    none = np.zeros(40, bool)
    table, metrics = run(tmp_path / "alone", **vectors_of, **{f"{absent}_valid": none})
    beside, _ = run(tmp_path / "beside", vectors, vectors)
    assert table[f"{absent}_label"] == [None] * 40 and metrics[f"{absent}_clusters"] == 0
    assert table[f"{present}_label"] == beside[f"{present}_label"]


def test_no_vector_at_all_is_refused(tmp_path):
    nothing, none = np.zeros((5, 1), np.float32), np.zeros(5, bool)
    with pytest.raises(UserError, match="none of 5 items has a text or an image vector"):
        run(tmp_path, nothing, nothing, text_valid=none, image_valid=none)


@pytest.mark.parametrize(
    ("clusters", "distinct", "expected"),
    [(512, 1, 1), (512, 2, 2), (512, 9, 2), (512, 100, 25), (512, 2048, 512), (512, 10**6, 512)],
)
def test_cap_on_the_clusters(clusters, distinct, expected):
    assert cap_clusters(clusters, distinct, 4) == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [(1, 2), (30, 2), (239, 16), (300, 32), (704, 64), (1_585, 128), (6_000, 512), (10**6, 512)],
)
def test_automatic_number_of_clusters(items, expected):
    assert automatic_clusters(items) == expected


def test_the_automatic_number_follows_each_modality_and_is_logged(tmp_path, caplog):
    noise = np.random.default_rng(0).normal(size=(239, 8)).astype(np.float32)
    with_image = np.arange(239) < 60
    with caplog.at_level(logging.INFO, "macrec"):
        _, metrics = run(tmp_path, noise, noise, image_valid=with_image)
    assert (metrics["text_clusters"], metrics["image_clusters"]) == (16, 4)
    assert "text: 16 clusters for 239 items (auto)" in caplog.messages
    assert "image: 4 clusters for 60 items (auto)" in caplog.messages


def test_the_automatic_number_is_capped_by_the_distinct_vectors(tmp_path):
    vectors = np.repeat(planted(np.arange(12), 1), 50, axis=0)
    _, metrics = run(tmp_path, vectors, vectors)
    assert metrics["text_clusters"] == 3


@pytest.mark.parametrize("config", [{}, STREAMED], ids=["in_memory", "streamed"])
@pytest.mark.parametrize("items", [1, 2, 3])
def test_tiny_catalogues(tmp_path, items, config):
    vectors = np.eye(4, dtype=np.float32)[:items]
    table, metrics = run(tmp_path, vectors, vectors, **config)
    assert metrics["text_clusters"] == metrics["text_clusters_used"] == min(items, 2)
    assert len(set(table["text_label"])) == min(items, 2)


@pytest.mark.parametrize("config", [{}, STREAMED], ids=["in_memory", "streamed"])
def test_the_cap_counts_distinct_vectors_and_is_logged(tmp_path, config, caplog):
    vectors = np.repeat(planted(np.arange(12), 1), 50, axis=0)
    vectors[:, 0] = np.where(np.arange(600) % 2, 0.0, -0.0)  # equal numbers of different bits
    with caplog.at_level(logging.WARNING, "macrec"):
        _, metrics = run(tmp_path, vectors, vectors, clusters=512, **config)
    assert metrics["text_clusters"] == 3
    assert (
        "text: 3 clusters instead of 512, because there are only 12 distinct vectors" in caplog.text
    )


@pytest.mark.parametrize("config", [{}, STREAMED], ids=["in_memory", "streamed"])
def test_labels_depend_on_the_seed_and_not_on_the_threads(tmp_path, config):
    noise = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    labels = []
    for run_number, (threads, seed) in enumerate([(1, 0), (4, 0), (4, 0), (1, 1)]):
        with threadpool_limits(threads):
            table, metrics = run(tmp_path / str(run_number), noise, noise, seed=seed, **config)
        labels.append((table, metrics))
    assert labels[0] == labels[1] == labels[2]
    assert labels[0] != labels[3]


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    vectors = np.ones((5, 2), np.float32)
    vectors[3, 1] = np.nan
    with pytest.raises(UserError, match="image: 1 of 5 vectors are not finite"):
        run(tmp_path, np.ones((5, 2), np.float32), vectors)


def test_artifacts_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(UserError, match="5 text vectors but 4 image vectors"):
        run(tmp_path, np.ones((5, 2), np.float32), np.ones((4, 2), np.float32))


@pytest.mark.parametrize(
    "config",
    [{"clusters": 1}, {"passes": 0}, {"batch_items": 0}, {"max_iterations": 0}, {"seed": -1}],
)
def test_config_is_checked(config):
    with pytest.raises(UserError, match=next(iter(config))):
        spec.Settings(**config)


@pytest.mark.parametrize("config", [{}, STREAMED])
def test_vectors_in_a_scratch_file_give_the_same_labels(tmp_path, monkeypatch, config):
    groups_N = np.arange(120) % 6
    given = planted(groups_N, 1), planted(groups_N, 2)
    settings = {"clusters": 6, **config}
    in_memory = run(tmp_path / "near", *given, **settings)
    read = vectors.read_vectors
    sizes = []

    def scratch(artifact):
        found = read(artifact, memory_gib=0.0)
        sizes.append(type(found.matrix_NE))
        return found

    monkeypatch.setattr(stage, "read_vectors", scratch)
    assert run(tmp_path / "far", *given, **settings) == in_memory
    assert sizes == [vectors.ScratchMatrix] * 2
