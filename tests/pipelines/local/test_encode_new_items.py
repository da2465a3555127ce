"""New items beside an earlier run: the encoding pipeline, and what it takes over and leaves."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.run_form import ENCODE, PREVIOUS, resolve
from components.stages import stage_named
from macrec.core.artifact import Artifact, Source
from macrec.core.errors import UserError
from macrec.core.executor import execute
from macrec.core.settings import fields
from macrec.data.centring import read_quantizer_means
from pipelines.dag.compile import compile_pipeline
from pipelines.local import encode_new_items, id_version, run
from pipelines.local.pipeline_runner import LocalRun, StageRun

ENCODING = ["check_run", "prepare_data", "embed_text", "embed_image", "encode_items"]


@pytest.fixture(scope="module")
def dag():
    return next(yaml.safe_load_all(compile_pipeline(name="encode")))


@pytest.fixture(scope="module")
def tasks(dag):
    return {name.replace("-", "_"): task for name, task in dag["root"]["dag"]["tasks"].items()}


def test_the_dag_has_the_stages_that_make_vectors_and_the_encoder(tasks):
    assert set(tasks) == set(ENCODING)
    inputs = tasks["encode_items"]["inputs"]
    made = {
        n: given["taskOutputArtifact"]["producerTask"] for n, given in inputs["artifacts"].items()
    }
    assert made == {
        "items": "prepare-data",
        "text_embeddings": "embed-text",
        "image_embeddings": "embed-image",
    }
    for name in PREVIOUS:  # the first task finds them, and takes their digests
        for key, output in ((name, name), (f"{name}_snapshot", f"{name}_digest")):
            assert inputs["parameters"][key]["taskOutputParameter"] == {
                "producerTask": "check-run",
                "outputParameterKey": output,
            }


def test_every_stage_receives_its_settings_from_the_first_task(dag, tasks):
    declared = dag["root"]["inputDefinitions"]["parameters"]
    assert set(declared) == set(ENCODE.fields)
    given = tasks["check_run"]["inputs"]["parameters"]
    assert given["pipeline"]["runtimeValue"]["constant"] == "encode"
    for stage in ENCODE.stages:
        wired = tasks[stage.name]["inputs"]["parameters"]["settings"]["taskOutputParameter"]
        assert wired["outputParameterKey"] == f"{stage.name}_settings"


def ended(tmp_path, *stages):
    return LocalRun([StageRun(name, 1.0, False, {}, tmp_path / "runs" / name) for name in stages])


def publish(record, arguments, out, monkeypatch):
    """The names alone: the stages have left nothing."""
    monkeypatch.setattr(run, "RESULTS", {})
    monkeypatch.setattr(run.recommend_lists, "publish", lambda *_: None)
    run._publish(record, arguments, out)


def test_a_run_names_its_version_and_how_the_vectors_were_made(tmp_path, monkeypatch):
    given = {
        "catalog_items": "x.csv",
        "encoder_text": "m",
        "embed_text.prompt": "{}",
        "pseudo_label.seed": 1,
    }
    arguments = {**given, "prepare_data.min_interactions": 5, "run_store": "gs://bucket/store"}
    publish(ended(tmp_path, *run.LEFT.values()), arguments, tmp_path, monkeypatch)
    found = id_version.read(tmp_path)
    assert found.artifacts == {
        name: str(tmp_path / "runs" / stage / name) for name, stage in run.LEFT.items()
    }
    assert found.settings == {"embed_text.prompt": "{}"}
    assert found.store == "gs://bucket/store"
    left = id_version.find_run_artifacts(tmp_path, ["recommender", "sequences"])
    assert left == {
        "recommender": tmp_path / "runs" / "train" / "recommender",
        "sequences": tmp_path / "runs" / "prepare_data" / "sequences",
    }


def test_the_folder_may_be_moved(tmp_path, monkeypatch):
    record = ended(tmp_path / "a", *run.LEFT.values())
    (tmp_path / "a").mkdir()
    publish(record, {"run_store": "s"}, tmp_path / "a", monkeypatch)
    (tmp_path / "a").rename(tmp_path / "b")
    found = id_version.read(tmp_path / "b").artifacts["latents"]
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
        (
            {"encode_items.changd": "keep"},
            "encode_items.changd. Did you mean encode_items.changed",
        ),
        ({"encode_items.changed": "keep"}, "catalog_items is required"),
        ({"encode_items.tolerance": -1}, "encode_items.tolerance=-1"),
    ],
)
def test_the_parameters_are_checked_before_anything_runs(given, message):
    with pytest.raises(UserError, match=message):
        resolve(given, ENCODE)


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
            *("--vectors-text", self.path("text"), "--vectors-image", self.path("image")),
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
        id_version.write(self.out, folders, {"run_store": str(self.out / "store")})
        return self


def ids(out):
    path = id_version.read(out).artifacts["semantic_ids"]
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
    means = read_quantizer_means(
        Artifact.open(Path(id_version.read(before.out).artifacts["quantizer"]))
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
    command = ("encode-items", *shop.flags)
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


def test_the_quantizer_is_copied_once(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "encode_items"
    folder.mkdir(parents=True)
    quantizer = tmp_path / "old"
    quantizer.mkdir()
    for name in ("config.json", "manifest.json"):
        (quantizer / name).write_text("{}")
        (quantizer / name).chmod(0o444)
    record = ended(tmp_path, "encode_items")
    for previous in (quantizer, quantizer, tmp_path / "quantizer"):
        found = {"quantizer": str(previous)}
        monkeypatch.setattr(
            encode_new_items, "find_earlier_artifacts", lambda _, found=found: found
        )
        settled = {"run_previous": "earlier", "run_store": "s"}
        encode_new_items._publish(record, settled, tmp_path)
        assert {p.name for p in (tmp_path / "quantizer").iterdir()} == {
            "config.json",
            "manifest.json",
        }
