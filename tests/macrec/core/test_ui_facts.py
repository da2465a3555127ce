"""What the KFP UI is told: facts about artifacts, names of metrics in an order that it keeps."""

import numpy as np

from macrec.core import artifact, ui_facts
from macrec.core.artifact import Artifact
from macrec.data import schema
from macrec.data.columns import vector_column
from tests.artifacts import dataset

METRICS = {
    "users": 599.0,
    "agreement_0": 0.2,
    "fused_hr_10": 0.5,
    "fused_ndcg_10": 0.25,
    "text_hr_10": 0.4,
    "text_wide_mrr_5": 0.1,
    "random_hr_10": 0.01,
    "text_gini_10": 0.9,
    "validation_ndcg_at_10": 0.3,
}


def test_what_is_looked_at_first_is_shown_first():
    names = list(ui_facts.to_ui_names(METRICS))
    assert names[:4] == ["1 HR@10 fused", "1 HR@10 random", "1 HR@10 text", "2 NDCG@10 fused"]
    assert set(names[4:]) == {
        "MRR@5 text wide", "users", "agreement_0", "text_gini_10", "validation_ndcg_at_10",
    }  # fmt: skip
    # the UI of KFP 2.17 sorts by code points, a later one without regard to case
    assert sorted(names)[:4] == sorted(names, key=str.lower)[:4] == names[:4]


def test_the_names_lead_back():
    assert ui_facts.from_ui_names(ui_facts.to_ui_names(METRICS)) == METRICS


def test_facts_of_a_dataset_of_vectors(tmp_path):
    vectors = vector_column(np.ones((3, 8), np.float32), np.ones(3, bool))
    columns = [np.arange(3, dtype=np.int32), vectors, ["ok"] * 3]
    made = dataset(tmp_path / "vectors", schema.embeddings(8), columns)
    made = Artifact(made.path, {**made.manifest, "inputs": {"model": "abc", "items": "def"}})
    unread = {"embeddings": "", "previous_quantizer": "gs://b/given-and-not-read"}
    told = ui_facts.artifact_metadata(made, {"model": "gs://b/bge-m3", **unread})
    assert told == {
        "digest": made.digest,
        "bytes": (tmp_path / "vectors" / "part-00000.parquet").stat().st_size,
        "rows": 3,
        "dim": 8,
        "model": "gs://b/bge-m3",
        "model_digest": "abc",
    }


def test_vectors_of_two_sizes_are_told_apart():
    columns = artifact._describe_schema(schema.latents(8, 4))
    assert ui_facts._vector_sizes(columns) == {"text_latent_dim": 8, "image_latent_dim": 4}
    assert ui_facts._vector_sizes(artifact._describe_schema(schema.latents(8, 8))) == {"dim": 8}
    assert ui_facts._vector_sizes(artifact._describe_schema(schema.SEMANTIC_IDS)) == {}
