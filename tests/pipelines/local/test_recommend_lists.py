"""`macrec recommend`: lists from what a run has left, under other settings or of other users."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from macrec.core.artifact import Artifact, DatasetOutput, FolderOutput
from macrec.data import schema
from macrec.data.columns import codes_column, vector_column
from macrec.generator.model import ModelSize, Recommender, build_model, save_recommender
from macrec.generator.tokens import Vocabulary
from pipelines.cli import main
from pipelines.local import id_version, recommend_lists
from tests.artifacts import dataset

ITEMS, USERS = 30, 12
CPU = ("--set", "recommend.device=cpu", "--set", "recommend.threads=1")
EARLIER = {"top_k": 7, "beams": 9, "fusion_weight": -1.0, "renormalise": "on", "seen_items": "keep"}


def ended_run(out: Path, **config) -> Path:
    """What a run leaves for the command, without its stages."""
    out.mkdir()
    generator = np.random.default_rng(5)
    lists = [generator.integers(0, ITEMS, 5).tolist() for _ in range(USERS)]
    users = [f"u{u}" for u in range(USERS)]
    codes_NL = np.stack(np.divmod(generator.permutation(36)[:ITEMS], 6), 1).astype(np.int32)
    codes, index = codes_column(codes_NL), list(range(ITEMS))
    ids = [index, [f"id{i}" for i in index], codes, codes, [-1] * ITEMS, [-1] * ITEMS]
    none_1 = vector_column(np.zeros((ITEMS, 1), np.float32), np.zeros(ITEMS, bool))
    vocabulary = Vocabulary(levels=2, codebook_size=6)
    torch.manual_seed(1)
    model = build_model(vocabulary, ModelSize(d_model=16, d_ff=32, d_kv=8, layers=1, heads=2))
    output = FolderOutput(out / "recommender")
    output.prepare()
    save_recommender(output.path, Recommender(model.eval(), vocabulary, codes_NL, codes_NL, 4))
    output.commit({"stage": "train"})
    none = [[] for _ in schema.PREDICTIONS]
    chosen = {"fusion_weight": 0.4, "neighbour_weight": 0.0}
    chosen |= {"renormalise": False, "seen_items": "drop", "precision": "float32"}
    chosen |= {"neighbour_asymmetry": 0.5, "similar_item_share": 0.0, "successor_share": 0.0}
    made = DatasetOutput(out / "recommendations")
    made.prepare()
    with made.dataset(schema.RECOMMENDATIONS):
        pass
    made.commit({"stage": "recommend", "config": {**EARLIER, **config}})
    folders = {
        "sequences": dataset(out / "sequences", schema.SEQUENCES, [users, lists, [None] * USERS]),
        "semantic_ids": dataset(out / "semantic_ids", schema.SEMANTIC_IDS, ids),
        "latents": dataset(
            out / "latents", schema.latents(1, 1), [index, *[none_1] * 2, codes, codes]
        ),
        "predictions": dataset(out / "predictions", schema.PREDICTIONS, none, **chosen),
        "recommender": Artifact.open(output.path),
        "recommendations": Artifact.open(made.path),
    }
    absent = {"quantizer": out / "quantizer"}
    paths = {name: artifact.path for name, artifact in folders.items()}
    id_version.write(out, paths | absent, {"run_store": str(out / "store")})
    return out


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return ended_run(tmp_path_factory.mktemp("ended") / "out")


def called(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main.main(["recommend", *map(str, arguments), *CPU])
    assert ended.value.code == code


def test_a_list_of_users_and_of_items(out, tmp_path, capsys):
    (tmp_path / "users.csv").write_text("name,user_id\nx,u3\ny,u1\n")
    (tmp_path / "stock.txt").write_text("id1\nid2\nid4\n")
    to = tmp_path / "new" / "lists.parquet"
    lists = ("--users", tmp_path / "users.csv", "--allowed-items", tmp_path / "stock.txt")
    called(out, *lists, "--to", to)
    table = pq.read_table(to)
    assert table.schema.names == schema.RECOMMENDATIONS.names
    assert table["user_id"].to_pylist() == ["u1"] * 3 + ["u3"] * 3
    assert table["rank"].to_pylist() == [1, 2, 3] * 2
    assert set(table["item_id"].to_pylist()) == {"id1", "id2", "id4"}
    assert f"recommendations: {to} (2 users, 6 rows)" in capsys.readouterr().out
    assert not list(to.parent.glob(".*"))


def test_settings_are_those_of_the_run_unless_given(tmp_path):
    out = ended_run(tmp_path / "out")
    rows, records = [], []
    for name, flags in (("a", []), ("b", ["--top-k", 3]), ("c", [])):
        called(out, "--to", tmp_path / f"{name}.parquet", *flags)
        rows.append(len(pq.read_table(tmp_path / f"{name}.parquet")))
        records.append(len(list((out / "store" / "records" / "recommend").iterdir())))
    assert rows == [7 * USERS, 3 * USERS, 7 * USERS]
    assert records == [1, 2, 2]  # the third was in the run's store
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()


def test_a_run_that_left_the_lists_out_gives_the_usual_length(tmp_path):
    out = ended_run(tmp_path / "out", top_k=0)
    called(out, "--to", tmp_path / "a.parquet", "--store", tmp_path / "other")
    assert len(pq.read_table(tmp_path / "a.parquet")) == 20 * USERS
    assert (tmp_path / "other").is_dir() and not (out / "store").exists()


def test_several_parts_become_one_file(tmp_path):
    output = DatasetOutput(tmp_path / "dataset")
    output.prepare()
    rows = [["a", "a", "b"], [1, 2, 1], ["x", "y", "x"], [-1.0, -2.0, -3.0]]
    table = dataset(tmp_path / "one", schema.RECOMMENDATIONS, rows).table()
    with output.dataset(schema.RECOMMENDATIONS) as writer:
        for start in (0, 1, 2):
            writer.write(table.slice(start, 1))
            writer.close()
            writer.open_part()
    output.commit({"stage": "recommend"})
    recommend_lists.publish(output.path, tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").equals(table)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_bad_calls_are_refused(out, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    to = tmp_path / "a.parquet"
    called(tmp_path / "empty", "--to", to, code=2)
    assert "no version.json here" in caplog.text
    called(out, "--to", tmp_path / "a.csv", code=2)
    assert "name a file on this machine that ends in .parquet" in caplog.text
    called(out, "--to", "gs://bucket/a.parquet", code=2)
    called(out, "--to", to, "--top-k", "many", "--seen-items", "no", code=2)
    assert "2 problems" in caplog.text
    assert "top_k='many'" in caplog.text and "seen_items='no'" in caplog.text
    for wrong, hint in (("beams", "recommend.beams"), ("train.epochs", "macrec settings")):
        called(out, "--to", to, "--set", f"{wrong}=5", code=2)
        assert f"no setting {wrong}" in caplog.text and hint in caplog.text
    called(out, "--to", to, "--users", tmp_path / "absent.txt", code=2)
    assert "absent.txt: no such file" in caplog.text
    partial = {"semantic_ids": tmp_path, "latents": tmp_path, "quantizer": tmp_path}
    id_version.write(tmp_path, partial, {"run_store": "s"})
    called(tmp_path, "--to", to, code=2)
    assert "names no sequences, recommender, predictions, recommendations" in caplog.text
    assert not to.exists()
