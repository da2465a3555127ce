"""The whole DAG as a user runs it: pipeline.yaml through kfp.local, in processes."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.run_form import RECOMMENDER
from components.stages import CHECK_RUN
from macrec.core.artifact import Artifact
from macrec.core.settings import fields
from pipelines.local.run import continue_run
from tests.faults.stage_runs import run_flags
from tests.pipelines.conftest import SMOKE

SMALL = ["--set", "embed_image.max_bad_images=0.05"]  # 1 of 60 pictures is broken
STAGES = [stage.name for stage in RECOMMENDER.stages]
DECLARED = {p.name for p in fields(CHECK_RUN.outputs)}


@pytest.fixture(scope="module")
def out(small_run, tmp_path_factory):
    """A copy of the small run, in which other runs follow."""
    folder = tmp_path_factory.mktemp("out")
    small_run.copy(folder)
    return folder


@pytest.fixture(scope="module")
def first(small_run):
    return small_run.called


def states(called):
    """What the closing table says of each stage."""
    words = [line.split() for line in called.out.splitlines()]
    return {w[0]: w[-1] for w in words if w and w[-1] in ("computed", "reused")}


def test_the_dag_runs_end_to_end(first, small_run):
    out = small_run.out
    assert first.code == 0, first.err
    assert states(first) == dict.fromkeys(["check_run", *STAGES], "computed")
    for label in ("most popular", "text only", "image only", "fused", "random"):
        assert label in first.out
    assert f"report: {out / 'report.html'}" in first.out
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "data:image/jpeg" in page
    assert "Fused" in (out / "summary.md").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"check_run", *STAGES}
    assert metrics["evaluate"]["users"] == metrics["prepare_data"]["users"]
    assert metrics["resolve_collisions"]["text_collision_rate_after"] == 0
    users = metrics["recommend"]["users"]
    assert users == metrics["prepare_data"]["users"]
    lists = pq.read_table(out / "recommendations.parquet")
    assert len(lists) == metrics["recommend"]["rows"] == 20 * users
    assert (
        f"{out / 'recommendations.parquet'} ({users:,.0f} users, {len(lists):,} rows)" in first.out
    )


def test_a_bench_compares_the_run_with_others(first, here, out, tmp_path):
    called = here("bench", "--dataset", out, "--models", "popular", "--out", tmp_path)
    assert called.code == 0, called.err
    systems = json.loads((tmp_path / "bench.json").read_text())["systems"]
    metrics = json.loads((out / "metrics.json").read_text())
    for system, name in (("run_hybrid", "hybrid"), ("popular", "popular")):
        for metric in ("hr_10", "ndcg_10", "coverage_10", "gini_10", "novelty_10"):
            expected = metrics["evaluate"][f"{name}_{metric}"]
            assert systems[system]["mean"][metric] == pytest.approx(expected), (system, metric)
    own = systems["run_hybrid"]["mean"]
    assert own["validation_ndcg_10"] == metrics["evaluate"]["validation_ndcg_10"]
    assert own["parameters"] > 1000
    assert 0.5 < own["train_seconds"] < 600 and 0 < own["users_per_second"] < 1000


def test_a_second_run_reuses_every_stage(first, macrec, sample, out):
    again = macrec("run", "--config", SMOKE, "--out", out, *sample.flags, *SMALL)
    assert again.code == 0, again.err
    assert states(again) == {**dict.fromkeys(STAGES, "reused"), "check_run": "computed"}
    assert again.seconds < 40  # about 8 on a machine with nothing else to do
    tables = [[line for line in c.out.splitlines() if "0." in line] for c in (first, again)]
    assert tables[0][:6] == tables[1][:6]


def test_a_changed_setting_recomputes_what_depends_on_it(first, macrec, sample, out):
    changed = macrec(
        *("run", "--config", SMOKE, "--out", out, *sample.flags, *SMALL),
        *("--set", "evaluate.examples=2"),
    )
    assert changed.code == 0, changed.err
    assert [s for s, state in states(changed).items() if state == "computed"] == [
        "check_run",
        "evaluate",
    ]


@pytest.mark.slow
def test_settings_of_one_stage_reach_that_stage_alone(first, macrec, sample, out):
    """KFP's cache compares what the first task writes: all but one output is the same."""
    changed = macrec(*run_flags(sample.flags, out), "--set", "train.learning_rate=0.002")
    assert changed.code == 0, changed.err
    computed = [s for s, state in states(changed).items() if state == "computed"]
    assert computed == ["check_run", "train", "evaluate", "recommend"]
    runs = sorted((out / "runs").iterdir())
    written = [
        {p.name: p.read_text() for p in (run / "check-run").iterdir() if p.name in DECLARED}
        for run in (runs[0], runs[-1])
    ]
    assert set(written[0]) == set(written[1]) == DECLARED
    different = [name for name in DECLARED if written[0][name] != written[1][name]]
    assert different == ["train_settings"]


def test_new_data_is_noticed_and_equal_results_cut_the_rest_off(
    first, macrec, sample, out, tmp_path
):
    """A column that no stage reads makes a new catalogue, but the same items."""
    data = tmp_path / "data"
    shutil.copytree(sample.data, data)
    items = pq.read_table(data / "items.parquet")
    pq.write_table(
        items.append_column("shelf", pa.array(["x"] * len(items))), data / "items.parquet"
    )
    flags = [str(f).replace(str(sample.data), str(data)) for f in sample.flags]
    again = macrec("run", "--config", SMOKE, "--out", out, *flags, *SMALL)
    assert again.code == 0, again.err
    computed = [s for s, state in states(again).items() if state == "computed"]
    assert computed == ["check_run", "prepare_data"]


def test_the_artifacts_are_what_the_contract_says(first, macrec, out):
    from pipelines.cli.contract import SCHEMAS

    run = sorted((out / "runs").iterdir())[0]
    found = {p.parent.name: Artifact.open(p.parent) for p in run.rglob("manifest.json")}
    for name, expected in SCHEMAS.items():
        columns = [c["name"] for c in found[name].manifest["schema"]]
        assert columns == expected.names, name
        assert found[name].verify().rows > 0
    shown = macrec("inspect", run / "resolve-collisions" / "semantic_ids")
    assert shown.code == 0
    assert found["semantic_ids"].digest in shown.out and "item_id='item-0000'" in shown.out
    assert "latents " + found["latents"].digest in shown.out


def test_the_recommender_folder_loads_in_stock_transformers(first, out):
    from transformers import T5ForConditionalGeneration

    folder = sorted((out / "runs").iterdir())[0] / "train" / "recommender"
    assert T5ForConditionalGeneration.from_pretrained(folder).config.vocab_size > 0


def test_one_stage_by_hand_equals_the_run(first, macrec, out, tmp_path):
    run = sorted((out / "runs").iterdir())[0]
    called = macrec(
        *("stage", "pseudo_label", "--out", tmp_path, "--set", "clusters=8"),
        *("--text-embeddings", run / "embed-text" / "text_embeddings"),
        *("--image-embeddings", run / "embed-image" / "image_embeddings"),
    )
    assert called.code == 0, called.err
    digests = [Artifact.open(p / "pseudo_labels").digest for p in (tmp_path, run / "pseudo-label")]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.skipif("MACREC_DATA" not in os.environ, reason="MACREC_DATA names no real data")
def test_given_embeddings_take_the_place_of_encoders(macrec, tmp_path):
    from benchmarks.data import amazon

    source = Path(os.environ["MACREC_DATA"]) / "scientific"
    amazon.convert(source, tmp_path / "data")
    called = macrec(
        *(
            "run",
            "--config",
            SMOKE,
            "--out",
            tmp_path / "out",
            "--set",
            "prepare_data.timestamp_column=",
        ),
        *("--items", tmp_path / "data" / "items.parquet"),
        *("--interactions", tmp_path / "data" / "interactions.parquet"),
        *("--vectors-text", tmp_path / "data" / "text_embeddings.parquet"),
        *("--vectors-image", tmp_path / "data" / "image_embeddings.parquet"),
        *("--set", "train.epochs=1", "--set", "train.validate_every=1"),
        *("--set", "quantize.codebook_size=64", "--set", "pseudo_label.clusters=64"),
    )
    assert called.code == 0, called.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["prepare_data"]["items"] == metrics["embed_image"]["items"] == 1585
    assert metrics["evaluate"]["users"] == 2928


@pytest.mark.slow
def test_everything_may_lie_in_a_bucket(macrec, sample, gcs_server, tmp_path):
    """Catalogue, log, pictures, encoders and the artifact store on gs://."""
    from macrec.core.storage import gcs_session, uris

    gcs_session.client().create_bucket("shop")
    bucket = uris.open_storage("gs://shop")
    roots = {"data": sample.data, "text": sample.text_model, "image": sample.image_model}
    for prefix, root in roots.items():
        for path in (p for p in root.rglob("*") if p.is_file()):
            bucket.upload(path, f"{prefix}/{path.relative_to(root).as_posix()}")
    flags = [
        *("--items", "gs://shop/data/items.parquet", "--images", "gs://shop/data/images"),
        *("--interactions", "gs://shop/data/interactions.parquet"),
        *("--encoder-text", "gs://shop/text", "--encoder-image", "gs://shop/image"),
        *("--store", "gs://shop/store", "--config", SMOKE, *SMALL),
    ]
    runs = [macrec("run", "--out", tmp_path / name, *flags) for name in ("a", "b")]
    assert [run.code for run in runs] == [0, 0], runs[0].err
    assert set(states(runs[0]).values()) == {"computed"}
    assert [s for s, state in states(runs[1]).items() if state == "computed"] == ["check_run"]
    folders = [next((tmp_path / name / "runs").iterdir()) for name in ("a", "b")]
    digests = [Artifact.open(f / "evaluate" / "predictions").verify().digest for f in folders]
    assert digests[0] == digests[1]


def test_an_earlier_run_fills_in_only_what_was_not_given(tmp_path):
    artifacts = {name: f"runs/{name}" for name in ("semantic_ids", "latents", "quantizer")}
    earlier = {"artifacts": artifacts, "settings": {}, "store": "/earlier/store"}
    (tmp_path / "version.json").write_text(json.dumps(earlier))
    given = {
        "embed_histories.dim": 0,
        "prepare_data.timestamp_column": "",
        "run_store": "",
        "quantize.seed": 3,
    }
    values = continue_run(given, tmp_path)
    assert values["run_store"] == "/earlier/store"
    assert values["run_previous"] == str(tmp_path)
    assert {n: values[n] for n in given if n != "run_store"} == {
        n: v for n, v in given.items() if n != "run_store"
    }
    assert continue_run(given | {"run_store": "/mine"}, tmp_path)["run_store"] == "/mine"
    assert continue_run(given, None) == given
