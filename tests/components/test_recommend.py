"""The stage on a small catalogue, against the ranking computed directly."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.recommend import shards, spec
from components.recommend.users import Users
from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput, Source
from macrec.core.errors import TryAgain, UserError
from macrec.core.executor import execute
from macrec.core.storage.uris import open_storage
from macrec.core.store import ArtifactStore
from macrec.data import schema
from macrec.data.columns import codes_column, vector_column
from macrec.data.sequences import Sequences
from macrec.generator.model import ModelSize, Recommender, build_model, save_recommender
from macrec.generator.tokens import Vocabulary
from macrec.ranking.fusion import Weights, fuse_with_neighbours
from macrec.ranking.neighbour_mix import Mix, mixed_neighbours
from macrec.ranking.ranker import Ranker, rank_users
from tests.artifacts import dataset

ITEMS, USERS, WEIGHT = 30, 23, 0.3
REST = {
    "precision": "float32",
    "neighbour_asymmetry": 0.5,
    "similar_item_share": 0.0,
    "successor_share": 0.0,
}
"""What evaluate states besides the weights."""
VOCABULARY = Vocabulary(levels=2, codebook_size=6)
WITHOUT_HISTORY = 4
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lists():
    generator = np.random.default_rng(5)
    drawn = [generator.integers(0, ITEMS, n).tolist() for n in generator.integers(1, 9, USERS)]
    drawn[WITHOUT_HISTORY] = []
    return drawn


@pytest.fixture(scope="module")
def recommender():
    codes_NL = np.stack(np.divmod(np.random.default_rng(2).permutation(36)[:ITEMS], 6), 1)
    text_NL = codes_NL.astype(np.int32)
    image_NL = text_NL[::-1].copy()
    image_NL[[3, 4, 5]] = -1
    torch.manual_seed(1)
    model = build_model(VOCABULARY, ModelSize(d_model=16, d_ff=32, d_kv=8, layers=1, heads=2))
    return Recommender(model.eval(), VOCABULARY, text_NL, image_NL, max_history=4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, lists, recommender):
    path = tmp_path_factory.mktemp("recommend")
    index = list(range(ITEMS))
    codes = [codes_column(recommender.codes_NL(m)) for m in ("text", "image")]
    columns = [index, [f"id{i}" for i in index], *codes, [-1] * ITEMS, [-1] * ITEMS]
    output = FolderOutput(path / "recommender")
    output.prepare()
    save_recommender(output.path, recommender)
    output.commit({"stage": "train"})
    none = [[] for _ in schema.PREDICTIONS]
    users = [str(100 + u) for u in range(USERS)]
    return {
        "sequences": dataset(
            path / "sequences", schema.SEQUENCES, [users, lists, [None] * len(users)]
        ),
        "semantic_ids": dataset(path / "semantic_ids", schema.SEMANTIC_IDS, columns),
        "latents": latents(path / "latents", recommender),
        "recommender": Artifact.open(output.path),
        "predictions": dataset(
            path / "predictions",
            schema.PREDICTIONS,
            none,
            fusion_weight=WEIGHT,
            neighbour_weight=0.0,
            renormalise=True,
            seen_items="drop",
            **REST,
        ),
    }


def latents(path, recommender):
    drawn = np.random.default_rng(8).normal(size=(2, ITEMS, 3)).astype(np.float32)
    codes_MNL = [recommender.text_codes_NL, recommender.image_codes_NL]
    vectors = [vector_column(d, c[:, 0] >= 0) for d, c in zip(drawn, codes_MNL, strict=True)]
    columns = [list(range(ITEMS)), *vectors, *map(codes_column, codes_MNL)]
    return dataset(path, schema.latents(3, 3), columns)


def run(path, inputs, *, store=None, shard_users=7, **config):
    """Metrics and rows of the stage."""
    output = DatasetOutput(path / "recommendations")
    done = execute(
        spec.STAGE,
        spec.Settings(**config),
        spec.Inputs(**inputs),
        spec.Outputs(recommendations=output),
        spec.Execution(device="cpu", batch_size=4, threads=1, shard_users=shard_users),
        store=store,
    )
    return done.metrics, Artifact.open(output.path).verify()


def by_user(artifact):
    """Item indices of each user's list, in the order of the rows."""
    found: dict[str, list[int]] = {}
    for row in artifact.table().to_pylist():
        items = found.setdefault(row["user_id"], [])
        items.append(int(row["item_id"].removeprefix("id")))
        assert row["rank"] == len(items)
    return found


def able(lists):
    return {str(100 + u): items for u, items in enumerate(lists) if items}


def written(path, *ids):
    path.write_text("".join(f"{i}\n" for i in ids))
    return Source(str(path))


def test_lists_are_the_fused_ones_from_the_whole_history(tmp_path, inputs, lists, recommender):
    metrics, artifact = run(tmp_path, inputs, top_k=6, beams=ITEMS, seen_items="keep")
    ranked = rank_users(
        recommender,
        [np.array(items) for items in able(lists).values()],
        beams=ITEMS,
        top_k=6,
        fusion_weight=WEIGHT,
        renormalise=True,
    )
    found = by_user(artifact)
    assert list(found) == list(able(lists))
    assert list(found.values()) == ranked.fused_items_UK[:, :6].tolist()
    scores = np.array(artifact.table()["score"]).reshape(-1, 6)
    np.testing.assert_allclose(scores, ranked.fused_scores_UK[:, :6], rtol=1e-4)
    told = {"fusion_weight": WEIGHT, "neighbour_weight": 0.0, "renormalise": True}
    told |= {"seen_items": "keep", "precision": "float32"}
    told |= {"similar_item_share": 0.0, "neighbour_asymmetry": 0.5, "successor_share": 0.0}
    assert artifact.metadata == told
    expected = {"users": USERS - 1, "users_without_history": 1, "rows": 6 * (USERS - 1)}
    assert expected.items() <= metrics.items() and metrics["shorter_lists"] == 0


def test_what_is_given_stands_before_what_evaluate_chose(tmp_path, inputs, lists, recommender):
    config = {"fusion_weight": 0.9, "renormalise": "off", "seen_items": "keep", "top_k": 3}
    _, artifact = run(tmp_path, inputs, beams=ITEMS, **config)
    histories = [np.array(items) for items in able(lists).values()]
    ranked = rank_users(recommender, histories, beams=ITEMS, top_k=3, fusion_weight=0.9)
    assert list(by_user(artifact).values()) == ranked.fused_items_UK[:, :3].tolist()


def test_precision_is_that_of_evaluate_unless_another_is_given(tmp_path, inputs):
    none = [[] for _ in schema.PREDICTIONS]
    stated = inputs["predictions"].metadata | {"precision": "bfloat16"}
    low = {**inputs, "predictions": dataset(tmp_path / "p", schema.PREDICTIONS, none, **stated)}
    scores = {}
    for name, given, config in (
        ("evaluated", low, {}),
        ("low", inputs, {"precision": "bfloat16"}),
        ("high", low, {"precision": "float32"}),
    ):
        _, artifact = run(tmp_path / name, given, top_k=ITEMS, beams=ITEMS, **config)
        assert artifact.metadata["precision"] == ("float32" if name == "high" else "bfloat16")
        rows = artifact.table().to_pylist()
        scores[name] = {(row["user_id"], row["item_id"]): row["score"] for row in rows}
    assert scores["evaluated"] == scores["low"] != scores["high"]
    assert scores["low"] == pytest.approx(scores["high"], rel=0.05)


def test_neighbours_are_counted_in_whole_histories_and_weigh_as_evaluate_chose(
    tmp_path, inputs, lists, recommender
):
    none = [[] for _ in schema.PREDICTIONS]
    mix = Mix(asymmetry=0.9, similar_item_share=0.4, successor_share=0.2)
    stated = {
        "fusion_weight": WEIGHT,
        "neighbour_weight": 0.6,
        "similar_item_share": mix.similar_item_share,
    }
    stated |= {"neighbour_asymmetry": mix.asymmetry, "successor_share": mix.successor_share}
    stated |= {"precision": "float32"}
    chosen = dataset(
        tmp_path / "p", schema.PREDICTIONS, none, renormalise=False, seen_items="drop", **stated
    )
    _, artifact = run(tmp_path / "chosen", {**inputs, "predictions": chosen}, top_k=5)
    histories = list(able(lists).values())
    offsets = np.cumsum([0, *(len(items) for items in histories)])
    flat = Sequences(np.array([i for items in histories for i in items], np.int32), offsets)
    ranker = Ranker(
        recommender,
        device="cpu",
        batch_size=64,
        drop_seen=True,
        neighbours=mixed_neighbours(flat, ITEMS, inputs["latents"], [mix])[mix],
    )
    found = ranker.candidates([np.array(items) for items in histories], 20)
    ranked = fuse_with_neighbours(found, Weights(WEIGHT, 0.6), 5)
    assert list(by_user(artifact).values()) == ranked.items_UK[:, :5].tolist()
    assert artifact.metadata["neighbour_weight"] == 0.6
    given = {**stated, "renormalise": "off"}
    _, same = run(tmp_path / "given", inputs, top_k=5, **given)
    assert by_user(same) == by_user(artifact)
    _, without = run(
        tmp_path / "without",
        {**inputs, "predictions": chosen},
        top_k=5,
        beams=20,
        neighbour_weight=0.0,
    )
    assert by_user(without) != by_user(artifact)


def test_nothing_seen_is_recommended_and_lists_are_filled_with_others(tmp_path, inputs, lists):
    assert max(len(set(items)) for items in lists) > 4  # more than the model is shown
    metrics, artifact = run(tmp_path, inputs, top_k=20, beams=5)
    for user, items in by_user(artifact).items():
        assert len(items) == len(set(items)) == 20
        assert not set(items) & set(lists[int(user) - 100])
    assert metrics["shorter_lists"] == 0


def test_only_allowed_items_to_listed_users(tmp_path, inputs, lists, caplog):
    allowed = written(tmp_path / "stock.txt", "id3", "id8", "id9", "id9", "gone", "id20", "id21")
    users = written(tmp_path / "users.txt", 120, 101, "nobody", 104, 107)
    given = {**inputs, "allowed_items": allowed, "users": users}
    metrics, artifact = run(tmp_path, given, top_k=4)
    found = by_user(artifact)
    assert list(found) == ["101", "107", "120"]  # in the order of the sequences
    shorter = 0
    for user, items in found.items():
        unseen = {3, 8, 9, 20, 21} - set(lists[int(user) - 100])
        assert len(items) == min(4, len(unseen)) and set(items) <= unseen
        shorter += len(unseen) < 4
    assert metrics == {
        "users": 3,
        "users_without_history": 1,
        "unknown_users": 1,
        "unknown_items": 1,
        "items_allowed": 5,
        "rows": sum(map(len, found.values())),
        "shorter_lists": shorter,
    }
    assert "1 of 6 ids are no item of this run (first: gone)" in caplog.text
    assert "1 of 5 ids are no user of this run (first: nobody)" in caplog.text
    assert "1 users have no interaction" in caplog.text


def test_a_user_who_has_seen_all_that_is_allowed_has_no_rows(tmp_path, inputs, lists):
    user = max(range(USERS), key=lambda u: len(set(lists[u])))
    allowed = written(tmp_path / "a.txt", *(f"id{i}" for i in lists[user]), "id3")
    config = {"inputs": {**inputs, "allowed_items": allowed}, "top_k": 5}
    assert 3 not in lists[user]
    assert by_user(run(tmp_path, **config)[1])[str(100 + user)] == [3]
    allowed = written(tmp_path / "a.txt", *(f"id{i}" for i in lists[user]))
    metrics, artifact = run(tmp_path, {**inputs, "allowed_items": allowed}, top_k=5)
    assert str(100 + user) not in by_user(artifact)
    assert metrics["users"] == USERS - 1 and metrics["shorter_lists"] > 0


@pytest.mark.parametrize("remote", [False, True])
def test_it_goes_on_after_the_last_finished_shard(tmp_path, inputs, monkeypatch, request, remote):
    whole = run(tmp_path / "whole", inputs)[1]
    uri = str(tmp_path / "store")
    if remote:
        request.getfixturevalue("gcs_server")
        from macrec.core.storage import gcs_session

        gcs_session.client().create_bucket("lists")
        uri = "gs://lists/store"
    kept, find = shards.KeptShards.keep, shards.KeptShards.find
    done: list[str] = []
    found: list[str] = []

    def killed(self, name, table):
        kept(self, name, table)
        done.append(name)
        if len(done) == 2:
            raise SystemExit(143)

    def noted(self, name):
        table = find(self, name)
        if table is not None:
            found.append(name)
        return table

    monkeypatch.setattr(shards.KeptShards, "keep", killed)
    with pytest.raises(SystemExit):
        run(tmp_path / "out", inputs, store=ArtifactStore(uri))
    monkeypatch.setattr(shards.KeptShards, "find", noted)
    metrics, artifact = run(tmp_path / "out", inputs, store=ArtifactStore(uri))
    assert found == done[:2] and len(done) == 4  # 22 users in shards of 7
    assert artifact.digest == whole.digest
    assert metrics["rows"] == whole.rows
    assert not [e for e in open_storage(uri).list() if e.name.startswith("checkpoints")]


def test_the_number_of_users_in_a_shard_changes_no_list(tmp_path, inputs):
    found = [
        by_user(run(tmp_path / str(size), inputs, shard_users=size)[1]) for size in (1, 5, 1000)
    ]
    assert found[0] == found[1] == found[2]
    assert list(found[0]) == list(found[1]) == list(found[2])


def test_a_damaged_shard_is_computed_again(tmp_path, caplog):
    kept = shards.KeptShards(str(tmp_path))
    table = pa.table({"rank": [1, 2, 3]})
    kept.keep("users-0", table)
    assert kept.find("users-0") == table and kept.find("users-1") is None
    file = next(tmp_path.glob("*.parquet"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert kept.find("users-0") is None and "SHA-256" in caplog.text
    assert not list(tmp_path.iterdir())
    kept.keep("users-0", table)
    next(tmp_path.glob("*.parquet")).unlink()
    assert kept.find("users-0") is None and "content is absent" in caplog.text
    (tmp_path / "users-0.json").write_text("{}")
    assert kept.find("users-0") is None
    assert shards.KeptShards("").find("users-0") is None


def test_a_storage_that_does_not_answer_costs_no_list(tmp_path, monkeypatch, caplog):
    def silent(*_):
        raise TryAgain("no answer")

    monkeypatch.setattr("macrec.core.storage.local.LocalStorage.upload", silent)
    kept = shards.KeptShards(str(tmp_path))
    kept.keep("users-0", pa.table({"rank": [1]}))
    assert "users-0 is not stored: no answer" in caplog.text and kept.find("users-0") is None


def trained_otherwise(path, inputs, other):
    """The inputs with another recommender, and the IDs that it was trained on."""
    output = FolderOutput(path / "recommender")
    output.prepare()
    save_recommender(output.path, other)
    output.commit({"stage": "train"})
    ids = {name: inputs["semantic_ids"].table()[name] for name in schema.SEMANTIC_IDS.names}
    ids |= {f"{m}_codes": codes_column(other.codes_NL(m)) for m in ("text", "image")}
    return {
        **inputs,
        "recommender": Artifact.open(output.path),
        "semantic_ids": dataset(path / "ids", schema.SEMANTIC_IDS, list(ids.values())),
    }


def test_one_modality_alone(tmp_path, inputs, lists, recommender):
    none_NL = np.full_like(recommender.text_codes_NL, -1)
    alone = Recommender(recommender.model, VOCABULARY, recommender.text_codes_NL, none_NL, 4)
    given = trained_otherwise(tmp_path, inputs, alone)
    _, artifact = run(tmp_path, given, top_k=5, seen_items="keep")
    histories = [np.array(items) for items in able(lists).values()]
    ranked = rank_users(alone, histories, beams=20, top_k=5, renormalise=True)
    assert list(by_user(artifact).values()) == ranked.text_items_UK[:, :5].tolist()


def test_items_that_share_a_code_make_no_list_longer(tmp_path, inputs, recommender):
    codes_NL = np.repeat(recommender.text_codes_NL[::3], 3, axis=0)
    shared = Recommender(recommender.model, VOCABULARY, codes_NL, codes_NL, 4)
    _, artifact = run(tmp_path, trained_otherwise(tmp_path, inputs, shared), top_k=5)
    assert {len(items) for items in by_user(artifact).values()} == {5}


def test_left_out(tmp_path, inputs):
    metrics, artifact = run(tmp_path, inputs, top_k=0)
    assert metrics == {"users": 0, "rows": 0} and artifact.rows == 0
    assert artifact.schema.names == schema.RECOMMENDATIONS.names


def test_artifacts_of_other_runs_are_refused(tmp_path, inputs):
    ids = inputs["semantic_ids"].table()
    mixed = dataset(tmp_path / "ids", schema.SEMANTIC_IDS, ids.take(list(range(ITEMS))[::-1]))
    with pytest.raises(UserError, match="trained on other text codes"):
        run(tmp_path, {**inputs, "semantic_ids": mixed})
    none = [[] for _ in schema.PREDICTIONS]
    old = dataset(tmp_path / "old", schema.PREDICTIONS, none)
    with pytest.raises(UserError, match="state fusion_weight and neighbour_weight and"):
        run(tmp_path, {**inputs, "predictions": old})
    given = {"fusion_weight": 0.5, "neighbour_weight": 0.0, "renormalise": "on"}
    given |= {"seen_items": "keep", **REST}
    run(tmp_path, {**inputs, "predictions": old}, top_k=1, **given)
    beyond = [["a"], [[1, ITEMS]], [None]]
    beyond = dataset(tmp_path / "beyond", schema.SEQUENCES, beyond)
    with pytest.raises(UserError, match="1 of 2 interactions refer to items outside 0"):
        run(tmp_path, {**inputs, "sequences": beyond})


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ("users", ["x", "y"], "2 of 2 ids are no user of this run .first: x, y.. Compare"),
        ("users", ["104"], "1 users have no interaction and there are no others"),
        ("users", [], "the list contains no user_id"),
        ("allowed_items", ["30"], "1 of 1 ids are no item"),
        ("allowed_items", [], "the list contains no item_id"),
    ],
)
def test_lists_of_which_nothing_is_left_are_refused(tmp_path, inputs, name, ids, message):
    given = {**inputs, name: written(tmp_path / "ids.txt", *ids)}
    with pytest.raises(UserError, match=message):
        run(tmp_path, given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": -1},
        {"beams": 0},
        {"fusion_weight": 1.5},
        {"fusion_weight": -0.5},
        {"neighbour_asymmetry": 1.5},
        {"successor_share": -0.1},
        {"neighbour_weight": 1.0},
    ],
)
def test_bad_config_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name}="):
        spec.Settings(**wrong)


def test_users_are_read_a_bounded_number_at_a_time(tmp_path):
    users = [str(u) for u in range(100)]
    lists = [[u] * (u % 3) for u in range(100)]
    artifact = dataset(tmp_path / "s", schema.SEQUENCES, [users, lists, [None] * 100])
    found = Users(artifact, 100, None)
    parts = list(found.shards(10))
    with_history = [u for u in range(100) if u % 3]
    assert found.count == len(with_history) == 66 and found.without_history == 34
    assert [len(part.user_ids) for part in parts] == [10] * 6 + [6]
    assert [i for part in parts for i in part.user_ids.to_pylist()] == [*map(str, with_history)]
    assert [h.tolist() for part in parts for h in part.histories] == [
        lists[u] for u in with_history
    ]
    assert [part.first for part in parts] == [10 * k for k in range(7)]
    assert len({part.name for part in parts}) == 7
