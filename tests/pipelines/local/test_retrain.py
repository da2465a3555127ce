"""New catalogue data, as a user retrains on it: what is reused, what is kept, what is reported."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from google.protobuf import json_format

from components.run_form import RECOMMENDER, form_arguments
from macrec.core.artifact import Artifact
from pipelines.dag.tasks import Tasks, as_pipeline
from pipelines.local import id_version, pipeline_runner
from tests.pipelines.conftest import SMOKE
from tests.pipelines.local.test_run import SMALL, states

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("retrain")


@pytest.fixture(scope="module")
def retrain(macrec, sample, folder):
    """Runs into a folder of its own, all runs with the store of the first."""

    def call(name, *more, items=None, interactions=None):
        flags = list(sample.flags)
        flags[1] = items or flags[1]
        flags[3] = interactions or flags[3]
        settings = ("--config", SMOKE, "--store", folder / "store", *SMALL)
        done = macrec("run", *settings, "--out", folder / name, *flags, *more)
        assert done.code == 0, done.err
        return done

    return call


@pytest.fixture(scope="module")
def first(small_run, folder):
    """The small run, whose store the others share."""
    small_run.copy(folder / "v1", folder / "store")


@pytest.fixture(scope="module")
def new_data(sample, folder):
    """One item more, 1 % and a little, that two users have taken; its picture is another's."""
    items = pq.read_table(sample.data / "items.parquet")
    row = items.slice(3, 1).to_pylist()[0] | {"item_id": "new-item", "title": "Something else"}
    table = pa.concat_tables([items, pa.Table.from_pylist([row], items.schema)])
    pq.write_table(table, folder / "items.parquet")
    log = pq.read_table(sample.data / "interactions.parquet")
    rows = [r | {"item_id": "new-item"} for r in log.slice(0, 400).to_pylist()[::40]]
    table = pa.concat_tables([log, pa.Table.from_pylist(rows, log.schema)])
    pq.write_table(table, folder / "interactions.parquet")
    return {"items": folder / "items.parquet", "interactions": folder / "interactions.parquet"}


def metrics(folder: Path, name: str):
    return json.loads((folder / name / "metrics.json").read_text())


def ids(folder: Path, name: str):
    path = id_version.read(folder / name).artifacts["semantic_ids"]
    rows = Artifact.open(Path(path)).table().to_pylist()
    return {row["item_id"]: (row["text_codes"], row["image_codes"]) for row in rows}


def test_the_same_data_against_an_earlier_run_compute_the_report_alone(first, retrain, folder):
    again = retrain("same", "--previous", folder / "v1")
    computed = {stage for stage, state in states(again).items() if state == "computed"}
    assert computed == {"check_run", "evaluate"}
    assert "churn 0.00%" in again.out
    found = metrics(folder, "same")["evaluate"]
    assert (found["text_ids_moved"], found["text_ids_new"], found["text_ids_gone"]) == (0, 0, 0)


@pytest.fixture(scope="module")
def frozen(first, retrain, new_data, folder):
    """A retraining with one new item and the first run's quantizer."""
    mode = ("--previous", folder / "v1", "--set", "quantize.mode=frozen")
    return retrain("frozen", *mode, **new_data)


def test_only_new_items_are_embedded(frozen, folder):
    cold, warm = metrics(folder, "v1"), metrics(folder, "frozen")
    assert cold["embed_text"]["cached_items"] == cold["embed_image"]["cached_items"] == 0
    assert warm["embed_text"]["embedded_items"] == 1
    assert warm["embed_text"]["cached_items"] == cold["embed_text"]["ok"]
    # The picture was there already, under another item.
    assert warm["embed_image"]["embedded_items"] == 0
    assert warm["embed_image"]["cached_items"] == cold["embed_image"]["ok"] + 1


def test_the_vectors_are_those_of_a_run_without_a_cache(frozen, macrec, folder, sample):
    run = next((folder / "frozen" / "runs").iterdir())
    for stage, modality in (("embed-text", "text"), ("embed-image", "image")):
        warm = Artifact.open(run / stage / f"{modality}_embeddings")
        model = sample.text_model if modality == "text" else sample.image_model
        settings = ("--set", "max_tokens=32") if modality == "text" else ("--set", "size=32")
        images = ("--images", sample.data / "images", "--set", "max_bad_images=0.05")
        cold = macrec(
            *("stage", stage.replace("-", "_"), "--out", folder / stage, *settings),
            *("--items", run / "prepare-data" / "items", "--model", model),
            *(images if modality == "image" else ()),
        )
        assert cold.code == 0, cold.err
        found = Artifact.open(folder / stage / f"{modality}_embeddings")
        assert found.digest == warm.digest, modality


def test_a_frozen_quantizer_keeps_every_old_id(frozen, folder):
    assert set(states(frozen)) == {"check_run", *(s.name for s in RECOMMENDER.stages)}
    before, after = ids(folder, "v1"), ids(folder, "frozen")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"new-item"} and None not in after["new-item"]
    for codes in zip(*after.values(), strict=True):
        present = [tuple(c) for c in codes if c]
        assert len(set(present)) == len(present)
    quantizers = [
        Artifact.open(Path(id_version.read(folder / name).artifacts["quantizer"])).digest
        for name in ("v1", "frozen")
    ]
    assert quantizers[0] == quantizers[1]


def test_the_report_shows_the_churn(frozen, folder):
    found = metrics(folder, "frozen")["evaluate"]
    kept = found["text_ids_kept"]
    assert kept == metrics(folder, "v1")["resolve_collisions"]["text_items"]
    assert (found["text_ids_moved"], found["text_ids_new"], found["text_ids_gone"]) == (0, 1, 0)
    assert found["text_churn"] == 0
    told = f"text IDs since the earlier run: {kept:,.0f} kept, 0 moved, 1 new, 0 gone; churn 0.00%"
    assert told in frozen.out
    page, summary = ((folder / "frozen" / n).read_text() for n in ("report.html", "summary.md"))
    assert "Since the earlier run" in page
    assert f"| text | {kept:,.0f} | 0 | 1 | 0 | 0.00\N{NO-BREAK SPACE}% |" in summary


def test_a_retrained_quantizer_gives_other_ids_and_says_so(first, retrain, new_data, folder):
    done = retrain("retrained", "--previous", folder / "v1", **new_data)
    found = metrics(folder, "retrained")["evaluate"]
    assert found["text_ids_moved"] > 10 and found["text_churn"] > 0.2
    before, after = ids(folder, "v1"), ids(folder, "retrained")
    moved = sum(after[name][0] != codes[0] for name, codes in before.items() if codes[0])
    assert found["text_ids_moved"] == moved
    assert f"{moved} moved" in done.out


def test_frozen_without_an_earlier_run_is_refused(macrec, sample, folder):
    done = macrec(
        *("run", "--config", SMOKE, "--out", folder / "none", *sample.flags),
        *("--set", "quantize.mode=frozen"),
    )
    assert done.code == 2 and "needs run_previous" in done.err


def test_shards_give_the_bytes_of_one_task(sample, tmp_path):
    """The first part of the DAG, compiled with two shards and run by kfp.local."""
    data = {"catalog_items": sample.data / "items.parquet", "encoder_text": sample.text_model}
    data |= {"catalog_interactions": sample.data / "interactions.parquet"}
    data |= {"catalog_images": sample.data / "images", "encoder_image": sample.image_model}
    settings = {
        "embed_text.max_tokens": 32,
        "embed_image.size": 32,
        "embed_image.max_bad_images": 0.05,
    }
    digests = []
    for shards in (1, 2):
        pipeline = as_pipeline(embedding, "embedding", RECOMMENDER, embedding_shards=shards)
        path = tmp_path / f"{shards}.yaml"
        path.write_text(
            "---\n".join(
                yaml.safe_dump(json_format.MessageToDict(part))
                for part in (pipeline.pipeline_spec, pipeline.platform_spec)
            )
        )
        given = {name: str(value) for name, value in data.items()} | settings
        given = form_arguments(given | {"run_store": str(tmp_path / f"store{shards}")})
        record = pipeline_runner.run_pipeline(given, tmp_path / f"runs{shards}", path)
        whole = {s.stage: s for s in record.stages}  # the last of a name is the whole
        assert len(record.stages) == 4 + (4 if shards == 2 else 0)
        for name in ("embed_text", "embed_image"):
            counts = whole[name].metrics
            assert (counts["embedded_items"] == 0) is (counts["cached_items"] > 0) is (shards == 2)
        digests.append(
            {
                name: Artifact.open(whole[f"embed_{name}"].folder / f"{name}_embeddings").digest
                for name in ("text", "image")
            }
        )
    assert digests[0] == digests[1]


def embedding(*values, embedding_shards):
    """As far as the vectors."""
    Tasks(RECOMMENDER, values, embedding_shards, None).embedded()
