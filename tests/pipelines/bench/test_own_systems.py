"""Our own systems in `macrec bench`, on a tiny catalogue with planted histories."""

import functools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.quality import evaluate_again
from components.baselines import search
from macrec.core import fingerprint
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import vector_column
from pipelines.bench import bench_stages, recipes
from pipelines.bench.bench_stages import TrainingJob, Workspace
from pipelines.bench.dataset import open_dataset
from pipelines.bench.options import read_options
from pipelines.bench.own_systems import PipelineSystems
from pipelines.bench.work import run_jobs
from pipelines.cli import main
from tests import planted_sequences as planted
from tests.artifacts import dataset
from tests.pipelines.conftest import ROOT
from tests.planted_sequences import ITEMS, follow, prepared

pytestmark = pytest.mark.usefixtures("one_thread")
RESULTS = ROOT / "benchmarks" / "results"
CODE_VERSION = functools.cache(fingerprint.code_version)
TINY = """
prepare_data.timestamp_column: ""  # read before: changes nothing here
pseudo_label.clusters: 4
quantize.codebook_size: 8
quantize.levels: 3
quantize.latent_dim: 4
quantize.hidden: [12]
quantize.epochs: 3
quantize.refit_every: 2
train.d_model: 16
train.d_ff: 16
train.d_kv: 8
train.layers: 1
train.heads: 2
train.learning_rate: 0.001
train.item_pairs: 4
train.epochs: 1
train.decay: 0.0
train.warmup_steps: 2
train.validation_users: 20
train.validation_beams: 5
evaluate.beams: 10
evaluate.validation_users: 20
evaluate.fusion_weights: [0.0, 0.5, 1.0]
evaluate.successor_shares: [0.0]  # they know the planted rule whatever was trained
evaluate.examples: 0
"""


@pytest.fixture(scope="module", autouse=True)
def one_reading():
    """The sources are read once for all fingerprints of this file."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "macrec.core.executor",
            "macrec.core.fingerprint",
            "pipelines.bench.bench_stages",
        ):
            patch.setattr(f"{name}.code_version", CODE_VERSION)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared data with vectors: item i belongs to group i % 5 in text, i % 3 in pictures."""
    folder = prepared(tmp_path_factory.mktemp("data"), follow(planted.last_plus_5, users=60))
    generator = np.random.default_rng(0)
    index = np.arange(ITEMS, dtype=np.int32)
    for name, groups in (("text_embeddings", 5), ("image_embeddings", 3)):
        vectors = np.eye(6)[index % groups] + 0.1 * generator.normal(size=(ITEMS, 6))
        column = vector_column(vectors.astype(np.float32), np.ones(ITEMS, bool))
        dataset(folder / name, schema.embeddings(6), [index, column, ["ok"] * ITEMS])
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def benched(data, tmp_path_factory):
    """Three systems with two seeds: the output folder, and the arguments of the call."""
    out = tmp_path_factory.mktemp("bench")
    arguments = ["--dataset", data, "--models", "tiger,macrec,no_implicit", "--seeds", 2]
    arguments += ["--config", data / "tiny.yaml", "--out", out, "--device", "cpu", "--threads", 1]
    with pytest.raises(SystemExit) as ended:
        main.main(["bench", *map(str, arguments)])
    assert ended.value.code == 0
    return out, arguments


@pytest.fixture(scope="module")
def result(benched):
    return json.loads((benched[0] / "bench.json").read_text())


def manifests(out, stage, name):
    return [
        Artifact.open(p.parent).manifest for p in out.glob(f"stages/{stage}/*/{name}/manifest.json")
    ]


def test_the_table_contains_every_system_with_its_seeds(result, benched):
    systems = result["systems"]
    assert list(systems) == ["tiger", "macrec", "no_implicit"] and result["failed"] == []
    for name, system in systems.items():
        one, two = system["by_seed"]
        assert system["seeds"] == [0, 1] and one["ndcg_10"] != two["ndcg_10"], name
        assert one["validation_ndcg_10"] != two["validation_ndcg_10"]
        assert system["mean"]["ndcg_10"] == pytest.approx((one["ndcg_10"] + two["ndcg_10"]) / 2)
        if name != result["best"]:
            difference = system["to_the_best"]["ndcg_10"]
            best = systems[result["best"]]["mean"]["ndcg_10"]
            assert difference["mean"] == pytest.approx(system["mean"]["ndcg_10"] - best)
            assert 0 < difference["p"] <= 1
        for figure in ("parameters", "quantizer_parameters", "users_per_second", "epochs"):
            assert system["mean"][figure] > 0, figure
        seconds = [system["mean"][f"seconds_{stage}"] for stage in ("quantize", "train")]
        assert min(seconds) > 0 and system["mean"]["train_seconds"] == pytest.approx(sum(seconds))
        assert 0 <= system["mean"]["text_collisions_before"] <= 1
        assert ("image_collisions_before" in system["mean"]) == (name != "tiger")
    assert systems["macrec"]["mean"]["parameters"] == systems["no_implicit"]["mean"]["parameters"]
    table = (benched[0] / "table.md").read_text()
    assert "| MACRec without implicit alignment | 2 |" in table and "| TIGER | 2 |" in table


def test_results_that_seed_and_ablation_do_not_change_are_computed_once(result, benched):
    out = benched[0]
    count = {stage: len(list(out.glob(f"stages/{stage}/*"))) for stage in recipes.STAGES}
    assert count == {
        "embed_histories": 2,  # with and without
        "pseudo_label": 1,
        "quantize": 4,  # of tiger and macrec, two seeds; no_implicit has macrec's
        "resolve_collisions": 4,
        "train": 6,
        "evaluate": 6,
    }
    quantizers = [s["by_seed"][0]["seconds_quantize"] for s in result["systems"].values()]
    assert quantizers[1] == quantizers[2] != quantizers[0]  # a reused result keeps its seconds


def test_the_settings_reach_the_stages(result, benched):
    quantizers = [m["config"] for m in manifests(benched[0], "quantize", "latents")]
    assert {(c["modalities"], c["codebook_update"]) for c in quantizers} == {
        ("text", "gradient"), ("both", "refit"),
    }  # fmt: skip
    assert {c["codebook_size"] for c in quantizers} == {8} and {c["seed"] for c in quantizers} == {
        0,
        1,
    }
    generators = [m["config"] for m in manifests(benched[0], "train", "recommender")]
    assert sorted((c["implicit_weight"], len(c["tasks"]), c["seed"]) for c in generators) == [
        (0.0, 1, 0), (0.0, 1, 1), (0.0, 6, 0), (0.0, 6, 1), (0.01, 6, 0), (0.01, 6, 1),
    ]  # fmt: skip
    evaluated = [m["config"] for m in manifests(benched[0], "evaluate", "predictions")]
    # one modality: as many beams as the fused list has in both; no list that is not read
    assert sorted((c["beams"], c["single_modality_beams"]) for c in evaluated) == [
        (10, 0), (10, 0), (10, 0), (10, 0), (40, 0), (40, 0),
    ]  # fmt: skip


def test_another_call_reuses_everything(result, benched, here):
    out, arguments = benched
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*/*.json")}
    assert len(before) == 23 + 6  # seconds of each stage, speed of each system
    assert here("bench", *arguments).code == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*/*.json")} == before
    assert json.loads((out / "bench.json").read_text()) == result


def again(monkeypatch, data, bench, out):
    """Call `evaluate_again` with the settings of this bench instead of the defaults."""
    settings = ["beams=10", "validation_users=20", "fusion_weights=0.0,0.5,1.0"]
    settings += ["successor_shares=0.0", "examples=0", "device=cpu"]
    monkeypatch.setattr("sys.argv", ["", *map(str, [data, bench, out, *settings])])
    evaluate_again.main()


def test_evaluating_again_gives_the_figures_of_the_bench(
    result, benched, data, tmp_path, monkeypatch, capfd
):
    shutil.copytree(benched[0] / "stages", tmp_path / "bench" / "stages")
    stages = tmp_path / "bench" / "stages"
    trained = [Artifact.open(path) for path in stages.glob("train/*/recommender")]
    ablated = {one.digest for one in trained if not one.manifest["config"]["implicit_weight"]}
    for path in stages.glob("evaluate/*"):
        if Artifact.open(path / "predictions").manifest["inputs"]["recommender"] in ablated:
            shutil.rmtree(path)
    again(monkeypatch, data, tmp_path / "bench", tmp_path / "again")
    lines = [
        json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")
    ]
    assert [line["seed"] for line in lines] == [0, 1]
    for line, seed in zip(lines, result["systems"]["macrec"]["by_seed"], strict=True):
        assert line["hybrid_ndcg_10"] == pytest.approx(seed["ndcg_10"], abs=1e-5)
        assert line["hybrid_hr_10"] == pytest.approx(seed["hr_10"], abs=1e-5)


def test_several_trainings_of_a_seed_are_rejected(benched, data, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"several trainings of seed [01] with neighbours"):
        again(monkeypatch, data, benched[0], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_processes_run_jobs_in_order(tmp_path):
    workspace = Workspace({"items": tmp_path / "items"}, tmp_path, "cpu", 0)
    jobs = [TrainingJob(name, seed, {}) for name in ("tiger", "macrec") for seed in (0, 1)]
    results = list(run_jobs(functools.partial(bench_stages.run_job, workspace), jobs, 2))
    assert [job for job, _ in results] == jobs
    assert all("items: no manifest.json" in reason for _, reason in results)


def make_systems(data, tmp_path, **options):
    checked = read_options(out=tmp_path, configs=[data / "tiny.yaml"], **options)
    return PipelineSystems(checked, open_dataset(data))


def systems_without_training(data, tmp_path, monkeypatch, validation, **options):
    """Systems whose training is replaced by `validation`, a function of the settings."""

    def run_stages(workspace, settings, until):
        assert until == "train" and settings["quantize.seed"] == settings["train.seed"] == 0
        ndcg = validation(settings)
        return SimpleNamespace(metrics={"train": {"validation_ndcg_at_10": ndcg, "epochs": 3.0}})

    monkeypatch.setattr(bench_stages, "run_stages", run_stages)
    return make_systems(data, tmp_path, trials=6, **options)


def by_epochs(settings):
    if settings["train.learning_rate"] == 5e-3:
        raise UserError("quantize: the loss is not finite")
    return settings["train.epochs"] / 100


def test_a_failed_trial_is_recorded_and_an_ablation_uses_the_search_of_macrec(
    data, tmp_path, monkeypatch
):
    options = {"models": "no_histories,tiger", "assignments": ["macrec.train.dropout=0.2"]}
    systems = systems_without_training(data, tmp_path, monkeypatch, by_epochs, **options)
    found = systems.find_search("no_histories")
    assert found["identity"]["model"] == "macrec" and len(found["trials"]) == 6
    first = found["trials"][0]["settings"]  # the defaults, and what the data set says
    assert first["train.learning_rate"] == 1e-3 and first["train.epochs"] == 1
    assert "train.dropout" not in found["space"]  # --set overrides the search
    assert "quantize.history_weight" in found["space"]
    failed = [t for t in found["trials"] if t["settings"]["train.learning_rate"] == 5e-3]
    assert failed and all(t["failed"] == "quantize: the loss is not finite" for t in failed)
    assert not any(t["failed"] for t in found["trials"] if t not in failed)
    epochs = [t["settings"]["train.epochs"] for t in found["trials"] if t not in failed]
    assert found["best"]["settings"]["train.epochs"] == max(epochs) > 1
    settings = systems.settings("no_histories", found["best"]["settings"])
    assert settings["train.epochs"] == max(epochs) and settings["embed_histories.dim"] == 0
    assert settings["train.dropout"] == 0.2
    assert "quantize.history_weight" not in systems.find_search("tiger")["space"]
    assert systems.settings("tiger", {}).get("train.dropout") is None
    monkeypatch.setattr(search, "search", None)
    assert systems.find_search("no_histories") == found  # read from its file


def test_own_systems_use_the_search_of_an_earlier_bench(data, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("searched again")

    best = {"settings": {"train.dropout": 0.3, "train.epochs": 2}}
    searches = {"macrec": {"search": {"best": best}}, "tiger": {"search": None}}
    content = {"sequences": "s", "trials": 3, "minutes": 5.0, "systems": searches}
    earlier = tmp_path / "bench.json"
    earlier.write_text(json.dumps(content))
    monkeypatch.setattr(search, "search", never)
    options = {"searched": earlier, "assignments": ["macrec.train.dropout=0.2"]}
    systems = make_systems(data, tmp_path, models="macrec,no_con", **options)
    for name in ("macrec", "no_con"):
        found = systems.find_search(name)
        assert found == {"best": best}
        settings = systems.settings(name, found["best"]["settings"])
        assert settings["train.epochs"] == 2 and settings["train.dropout"] == 0.2
    with pytest.raises(UserError, match=r"no search for tiger\. It has searches for macrec"):
        make_systems(data, tmp_path, models="macrec,tiger", **options)


@pytest.mark.parametrize("name", sorted(p.name for p in RESULTS.glob("*-bench-*.json")))
def test_every_stored_bench_with_a_search_can_be_reused(data, tmp_path, name):
    content = json.loads((RESULTS / name).read_text())
    models = [n for n, s in content["systems"].items() if s["search"] and n in recipes.RECIPES]
    if models:
        systems = make_systems(data, tmp_path, models=",".join(models), searched=RESULTS / name)
        for model in models:
            best = systems.find_search(model)["best"]["settings"]
            assert best["train.learning_rate"] and systems.settings(model, best).keys() >= {*best}


def test_a_search_that_chose_a_removed_setting_is_rejected(data, tmp_path):
    best = {"settings": {"generator_epochs": 2, "generator_magic": 1}}
    content = {"sequences": "s", "trials": 3, "minutes": 5.0}
    content["systems"] = {"macrec": {"search": {"best": best}}}
    (tmp_path / "bench.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="the search for macrec chose generator_magic, which"):
        make_systems(data, tmp_path, models="macrec", searched=tmp_path / "bench.json")


def test_a_system_without_a_successful_trial_is_left_out(data, tmp_path, monkeypatch):
    def never(settings):
        raise UserError("collapsed")

    options = {"models": "macrec,no_con", "assignments": ["macrec.quantize.history_weight=1"]}
    systems = systems_without_training(data, tmp_path, monkeypatch, never, **options)
    outcome = systems.train(["macrec", "no_con"])
    assert outcome.systems == {}
    assert [failure["system"] for failure in outcome.failures] == ["macrec", "no_con"]
    for failure in outcome.failures:
        assert "all 6 trials failed. The first error: collapsed" in failure["reason"]
    assert len(json.loads((tmp_path / "trials" / "macrec.json").read_text())["trials"]) == 6


def test_a_failed_search_does_not_end_the_others(data, tmp_path, here, monkeypatch):
    def run_stages(workspace, settings, until):
        raise UserError("collapsed")

    monkeypatch.setattr(bench_stages, "run_stages", run_stages)
    arguments = ["--dataset", data, "--config", data / "tiny.yaml", "--trials", "2"]
    called = here("tune", *arguments, "--models", "macrec,item_knn", "--out", tmp_path)
    assert called.code == 2 and "all 2 trials failed. The first error: collapsed" in called.err
    assert json.loads((tmp_path / "trials" / "item_knn.json").read_text())["best"]
    called = here("bench", *arguments, "--models", "macrec,item_knn", "--out", tmp_path)
    assert called.code == 0 and "item-kNN" in called.out, called.err
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [f["system"] for f in result["failed"]] == ["macrec"]
    assert "item_knn" in result["systems"]


def test_a_failed_training_is_listed_and_the_others_are_compared(data, tmp_path, here):
    arguments = ["--dataset", data, "--config", data / "tiny.yaml", "--models", "popular,macrec"]
    arguments += ["--set", "macrec.quantize.min_perplexity_share=1.0", "--threads", 1]
    called = here("bench", *arguments, "--out", tmp_path, "--device", "cpu")
    assert called.code == 0, called.err
    assert "Failed: macrec, seed 0: quantize: " in called.out and "most popular" in called.out
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["systems"]) == ["popular"]
    assert [(f["system"], f["seed"]) for f in found["failed"]] == [("macrec", 0)]


def test_a_single_modality_has_as_many_beams_as_both():
    def beams(settings, text, image):
        items = {"text_items": text, "image_items": image}
        found = bench_stages._list_settings(settings, {"resolve_collisions": items})
        assert found["evaluate.single_modality_beams"] == 0
        return found["evaluate.beams"]

    assert beams({}, 9.0, 9.0) == 20 and beams({}, 9.0, 0.0) == 40 == beams({}, 0.0, 9.0)
    assert beams({"evaluate.beams": 50}, 9.0, 0.0) == 50


def test_models_without_their_vectors_are_left_out_or_rejected(data, tmp_path, here):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sequences", "items", "text_embeddings"):
        (bare / name).symlink_to(data / name)
    arguments = ["bench", "--dataset", bare, "--out", tmp_path / "out"]
    called = here(*arguments, "--models", "popular,macrec")
    assert called.code == 2 and "macrec reads image_embeddings" in called.err
    called = here(*arguments, "--models", "popular,own,ablations")
    assert called.code == 0, called.err
    assert "left out: tiger reads image_embeddings, which --dataset bare does not" in called.err
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(found["systems"]) == ["popular"]
    assert {"tiger", "macrec", "no_con"} <= set(found["left_out"])
    assert "Left out: no_con reads image_embeddings" in called.out
    called = here(*arguments, "--models", "own")
    assert called.code == 2 and "all models are left out: tiger reads" in called.err
