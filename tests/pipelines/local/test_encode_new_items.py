"""New items beside an earlier run: the encoding pipeline, and what it takes over and leaves."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.stages import stage_named
from macrec.core.artifact import Artifact, Source
from macrec.core.errors import UserError
from macrec.core.executor import execute
from macrec.core.parameters import fields
from macrec.data.centring import trained_on
from pipelines.dag.compile import compiled
from pipelines.dag.run_form import (
    ALL_PREFIXES,
    PREVIOUS,
    SET_BY_PIPELINE,
    encode_parameters,
    resolve,
)
from pipelines.local import encode_new_items, id_version, run
from pipelines.local.pipeline_runner import LocalRun, StageRun

ENCODING = ["snapshot_catalog", "prepare_data", "embed_text", "embed_image", "encode_items"]


@pytest.fixture(scope="module")
def dag():
    return next(yaml.safe_load_all(compiled(name="encode")))


@pytest.fixture(scope="module")
def tasks(dag):
    return {name.replace("-", "_"): task for name, task in dag["root"]["dag"]["tasks"].items()}


def test_the_dag_has_the_stages_that_make_vectors_and_the_encoder(dag, tasks):
    assert {name for name in tasks if not name.startswith("importer")} == set(ENCODING)
    inputs = tasks["encode_items"]["inputs"]["artifacts"]
    made = {name: given["taskOutputArtifact"]["producerTask"] for name, given in inputs.items()}
    imported = {name: made.pop(name).replace("-", "_") for name in PREVIOUS}
    assert made == {
        "items": "prepare-data",
        "text_embeddings": "embed-text",
        "image_embeddings": "embed-image",
    }
    for name, parameter in PREVIOUS.items():
        uri = tasks[imported[name]]["inputs"]["parameters"]["uri"]
        assert uri["componentInputParameter"] == parameter
        executor = dag["deploymentSpec"]["executors"][f"exec-{imported[name].replace('_', '-')}"]
        assert executor["importer"]["reimport"] is True  # KFP's cache goes by the URI alone


def test_new_items_are_not_dropped_for_want_of_interactions(tasks):
    given = tasks["prepare_data"]["inputs"]["parameters"]["min_interactions"]
    assert given["runtimeValue"]["constant"] == 0


def test_every_other_setting_is_a_run_parameter(dag, tasks):
    declared = dag["root"]["inputDefinitions"]["parameters"]
    assert set(declared) == set(encode_parameters())
    for name in ENCODING:
        given = tasks[name]["inputs"].get("parameters", {})
        for parameter in stage_named(name).parameters:
            if parameter.name not in ("min_interactions", *SET_BY_PIPELINE):
                wired = given[parameter.name]["componentInputParameter"]
                assert wired == ALL_PREFIXES[name] + parameter.name
    assert declared["encode_changed"]["literals"] == ["recode", "keep"]


def ended(tmp_path, *stages):
    return LocalRun([StageRun(name, 1.0, False, {}, tmp_path / "runs" / name) for name in stages])


def publish(record, arguments, out, monkeypatch):
    """The names alone: the stages have left nothing."""
    monkeypatch.setattr(run, "RESULTS", {})
    monkeypatch.setattr(run.recommend_lists, "publish", lambda *_: None)
    run._publish(record, arguments, out)


def test_a_run_names_its_version_and_how_the_vectors_were_made(tmp_path, monkeypatch):
    given = {"catalog_items": "x.csv", "text_model": "m", "text_prompt": "{}", "label_seed": 1}
    arguments = {**given, "catalog_min_interactions": 5, "store": "gs://bucket/store"}
    publish(ended(tmp_path, *run.LEFT.values()), arguments, tmp_path, monkeypatch)
    found = id_version.read(tmp_path)
    assert found.artifacts == {
        "previous_semantic_ids": str(tmp_path / "runs" / "resolve_collisions" / "semantic_ids"),
        "previous_latents": str(tmp_path / "runs" / "quantize" / "latents"),
        "previous_quantizer": str(tmp_path / "runs" / "quantize" / "quantizer"),
    }
    assert found.settings == {"text_prompt": "{}"}
    assert found.store == "gs://bucket/store"
    left = id_version.left_by(tmp_path, ["recommender", "sequences"])
    assert left == {
        "recommender": tmp_path / "runs" / "train" / "recommender",
        "sequences": tmp_path / "runs" / "prepare_data" / "sequences",
    }


def test_the_folder_may_be_moved(tmp_path, monkeypatch):
    record = ended(tmp_path / "a", *run.LEFT.values())
    (tmp_path / "a").mkdir()
    publish(record, {"store": "s"}, tmp_path / "a", monkeypatch)
    (tmp_path / "a").rename(tmp_path / "b")
    found = id_version.read(tmp_path / "b").artifacts["previous_latents"]
    assert found == str(tmp_path / "b" / "runs" / "quantize" / "latents")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no version.json here"), ("{}", "damaged"), ("[", "damaged")]
)
def test_a_folder_without_a_version_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / id_version.VERSION).write_text(content)
    with pytest.raises(UserError, match=message):
        id_version.read(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encode_changd": "keep"}, "unknown parameter encode_changd. Did you mean encode_changed"),
        ({"encode_changed": "keep"}, "previous_quantizer is required"),
        ({"encode_tolerance": -1}, "tolerance is negative"),
    ],
)
def test_the_parameters_are_checked_before_anything_runs(given, message):
    with pytest.raises(UserError, match=message):
        resolve(given, declared=encode_parameters())


# ---------------------------------------------------------------- end to end, from given vectors


@dataclass(frozen=True)
class Shop:
    """A catalogue on disk with vectors for each item."""

    folder: Path

    def write(self, names, vectors, images=None) -> "Shop":
        self.folder.mkdir()
        users = [f"u{k}" for k in range(4) for _ in range(5)]
        log = {"user_id": users, "item_id": (names * 20)[:20], "timestamp": list(range(20))}
        pq.write_table(pa.table(log), self.folder / "log.parquet")
        items = {"item_id": names, "title": names}
        pq.write_table(pa.table(items), self.folder / "items.parquet")
        for modality, offset in (("text", 0), ("image", 1)):
            given = [n for n in names if modality == "text" or images is None or n in images]
            rows = [vectors[name] + offset for name in given]
            table = pa.table({"item_id": given, "embedding": rows})
            pq.write_table(table, self.folder / f"{modality}.parquet")
        return self

    def path(self, name) -> str:
        return str(self.folder / f"{name}.parquet")

    @property
    def flags(self):
        return [
            *("--items", self.path("items"), "--interactions", self.path("log")),
            *("--text-embeddings", self.path("text"), "--image-embeddings", self.path("image")),
        ]


class Earlier:
    """The stages of an earlier run up to the IDs, without processes; then its version.json."""

    def __init__(self, out, shop):
        self.out, self.shop = out, shop

    def execute(self, name, inputs, **config):
        stage, folder = stage_named(name), self.out / name
        outputs = {f.name: f.kind(folder / f.name) for f in fields(stage.outputs)}
        settings = (stage.settings(**config), stage.inputs(**inputs), stage.outputs(**outputs))
        execute(stage, *settings, stage.execution())
        return {name: Artifact.open(output.path) for name, output in outputs.items()}

    def run(self):
        shop = self.shop
        data = self.execute(
            "prepare_data",
            {"catalog": Source(shop.path("items")), "interactions": Source(shop.path("log"))},
            min_interactions=0,
        )
        vectors = {}
        for modality, centre in (("text", True), ("image", False)):
            given = {"items": data["items"], "embeddings": Source(shop.path(modality))}
            vectors |= self.execute(f"embed_{modality}", given, centre=centre)
        labels = self.execute("pseudo_label", vectors, clusters=4)
        near = self.execute("embed_histories", data, dim=3)
        config = {"codebook_size": 4, "levels": 3, "epochs": 2, "latent_dim": 4}
        quantized = self.execute("quantize", vectors | labels | near, **config)
        codes = self.execute("resolve_collisions", {"items": data["items"], **quantized})
        folders = {n: a.path for n, a in (quantized | codes).items()}
        id_version.write(self.out, folders, {"store": str(self.out / "store")})
        return self


def ids(out):
    path = id_version.read(out).artifacts["previous_semantic_ids"]
    rows = Artifact.open(Path(path)).table().to_pylist()
    return {row["item_id"]: (row["text_codes"], row["image_codes"]) for row in rows}


NAMES = [f"i{k:02d}" for k in range(24)]
ADDED = ["new", "bare"]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=8).astype(np.float32) + 3 for name in [*NAMES, *ADDED]}


@pytest.fixture
def before(vectors, tmp_path):
    return Earlier(tmp_path / "v1", Shop(tmp_path / "shop").write(NAMES, vectors)).run()


@pytest.mark.slow
def test_a_quantizer_tells_which_mean_its_vectors_lack(before, vectors):
    means = trained_on(
        Artifact.open(Path(id_version.read(before.out).artifacts["previous_quantizer"]))
    )
    assert means["text"] == pytest.approx(np.mean([vectors[n] for n in NAMES], 0), abs=1e-5)
    assert not means["image"].any()  # embedded with centre=False


@pytest.mark.slow
def test_encode_items_end_to_end_and_once_more_from_its_own_output(
    macrec, before, vectors, tmp_path
):
    # i00 is gone, i01 is another thing, two are new; the new mean is not the old one.
    changed = {"i01": vectors["i01"] + 9, "new": vectors["i05"], "bare": vectors["bare"] + 5}
    later = [*NAMES[12:], "new", *NAMES[1:12], "bare"]
    shop = Shop(tmp_path / "later").write(later, vectors | changed, images={*later} - {"bare"})
    command = ("encode-items", *shop.flags, "--set", "quantizer_seed=3")
    done = macrec(*command, "--previous", before.out, "--out", tmp_path / "v2")
    assert done.code == 0, done.err
    old, new = ids(before.out), ids(tmp_path / "v2")
    assert list(new) == later
    kept = set(NAMES) - {"i00", "i01"}
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    assert new["i01"] != old["i01"]
    assert new["bare"][1] is None
    for codes in zip(*new.values(), strict=True):
        present = [tuple(c) for c in codes if c]
        assert len(set(present)) == len(present)
    metrics = json.loads((tmp_path / "v2" / "metrics.json").read_text())["encode_items"]
    assert (metrics["new"], metrics["removed"], metrics["text_changed"]) == (2, 1, 1)
    assert metrics["text_churn"] == pytest.approx(1 / 23)
    assert "25 items: 2 new, 1 removed" in done.out and "4.35%" in done.out

    # The store is that of the earlier run, so the vectors are not made again.
    (tmp_path / "v1").rename(tmp_path / "moved")
    version_file = tmp_path / "v2" / id_version.VERSION
    version_file.write_text(version_file.read_text().replace("v1/store", "moved/store"))
    again = macrec(*command, "--previous", tmp_path / "v2", "--out", tmp_path / "v3")
    assert again.code == 0, again.err
    assert ids(tmp_path / "v3") == new
    states = {words[0]: words[-1] for words in map(str.split, again.out.splitlines()) if words}
    assert states["prepare_data"] == states["embed_text"] == states["embed_image"] == "reused"


def test_encode_items_without_an_earlier_run_is_refused(tmp_path, macrec):
    shop = Shop(tmp_path / "shop").write(["a", "b"], {n: np.zeros(2) for n in "ab"})
    command = ("encode-items", *shop.flags, "--previous", tmp_path, "--out", tmp_path / "v2")
    done = macrec(*command)
    assert done.code == 2 and "no version.json here" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "v2").exists()


def test_the_quantizer_is_copied_once(tmp_path):
    folder = tmp_path / "runs" / "encode_items"
    folder.mkdir(parents=True)
    quantizer = tmp_path / "old"
    quantizer.mkdir()
    for name in ("config.json", "manifest.json"):
        (quantizer / name).write_text("{}")
        (quantizer / name).chmod(0o444)
    record = ended(tmp_path, "encode_items")
    for previous in (quantizer, quantizer, tmp_path / "quantizer"):
        arguments = {"previous_quantizer": str(previous), "store": "s"}
        encode_new_items._publish(record, arguments, tmp_path)
        assert {p.name for p in (tmp_path / "quantizer").iterdir()} == {
            "config.json",
            "manifest.json",
        }
