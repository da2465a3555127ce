"""`macrec bench` and `macrec tune` on small data sets, as a user calls them."""

import json

import numpy as np
import pytest

from components.baselines import sasrec, search
from macrec.core.artifact import Artifact
from pipelines.bench import models
from pipelines.bench.dataset import open_dataset
from pipelines.cli import main
from pipelines.local.id_version import VERSION
from tests import planted_sequences as planted
from tests.artifacts import predictions
from tests.planted_sequences import ITEMS, follow, prepared

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = [
    *("--device", "cpu", "--set", "epochs=4", "--set", "sasrec.width=16"),
    *("--set", "sasrec.heads=2", "--set", "sasrec.layers=1", "--set", "sasrec.batch_size=64"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data"), follow(planted.last_plus_5, users=120))


def run_folder(path, data, hits):
    """An output folder of `macrec run`; its fused list is right for a share of users."""
    table = Artifact.open(data / "sequences").table(["user_id", "item_index"]).to_pylist()
    rows = []
    for place, row in enumerate(table):
        target = row["item_index"][-1]
        items = [target] if place < hits * len(table) else [(target + 1) % ITEMS]
        rows.append((row["user_id"], "fused", target, items, [-1.0]))
    predictions(path / "predictions", rows)
    prepared_files = {name: str(data / name) for name in ("sequences", "items")}
    artifacts = {
        **prepared_files,
        "semantic_ids": str(data / "items"),
        "predictions": "predictions",
        "recommender": str(weights(path)),
    }
    (path / VERSION).write_text(json.dumps({"artifacts": artifacts, "settings": {}, "store": ""}))
    metrics = {
        "evaluate": {"fused_ndcg_10": hits, "fused_coverage_10": 0.5, "text_ndcg_10": 0.1},
        "train": {"validation_ndcg_at_10": 0.25, "epochs": 7.0},
        "recommend": {"users": 0.0},
    }
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


def weights(path):
    from safetensors.numpy import save_file

    from macrec.core.artifact import FolderOutput

    output = FolderOutput(path / "recommender")
    output.prepare()
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(5)}, output.path / "model.safetensors")
    output.commit({"stage": "train", "config": {}})
    return output.path


@pytest.fixture(scope="module")
def benched(data, tmp_path_factory):
    """Three models, two seeds, a search of two trials; the options for another call."""
    out = tmp_path_factory.mktemp("bench")
    arguments = [
        "--dataset",
        data,
        "--models",
        "popular,item_knn,sasrec",
        "--seeds",
        2,
        "--trials",
        2,
    ]
    return out, [*arguments, "--minutes", 5, "--out", out, *QUICK]


@pytest.fixture(scope="module")
def result(benched):
    out, arguments = benched
    with pytest.raises(SystemExit) as ended:
        main.main(["bench", *map(str, arguments)])
    assert ended.value.code == 0
    return json.loads((out / "bench.json").read_text())


def test_every_model_is_trained_by_seed_and_compared_with_the_best(result, data):
    systems = result["systems"]
    assert {name: s["seeds"] for name, s in systems.items()} == {
        "popular": [0], "item_knn": [0], "sasrec": [0, 1],
    }  # fmt: skip
    assert result["users"] == 120 and result["items"] == ITEMS
    best = systems[result["best"]]
    assert best["mean"]["ndcg_10"] == max(s["mean"]["ndcg_10"] for s in systems.values())
    assert best["to_the_best"] == {} and result["best"] != "popular"
    found = systems["popular"]["to_the_best"]["ndcg_10"]
    difference = systems["popular"]["mean"]["ndcg_10"] - best["mean"]["ndcg_10"]
    assert found["mean"] == pytest.approx(difference) and found["p"] < 0.01 and found["high"] < 0
    one, two = (f["ndcg_10"] for f in systems["sasrec"]["by_seed"])
    assert one != two
    assert systems["sasrec"]["mean"]["ndcg_10"] == pytest.approx((one + two) / 2)
    assert systems["sasrec"]["sd"]["ndcg_10"] == pytest.approx(abs(one - two) / 2**0.5)
    for system in systems.values():
        low, high = (system["interval"]["ndcg_10"][k] for k in ("low", "high"))
        assert low < system["mean"]["ndcg_10"] < high
        for figure in ("parameters", "train_seconds", "users_per_second", "validation_ndcg_10"):
            assert system["mean"][figure] >= 0


def test_the_table_agrees_with_the_json(result, benched):
    table = (benched[0] / "table.md").read_text()
    sasrec_row = next(line for line in table.splitlines() if line.startswith("| SASRec | 2 |"))
    mean, sd = (result["systems"]["sasrec"][k]["hr_10"] for k in ("mean", "sd"))
    assert f"{mean:.4f} ± {sd:.4f}" in sasrec_row
    assert f"Best by NDCG@10: {result['systems'][result['best']]['title']}." in table


def test_the_trials_are_stored_and_the_best_one_is_trained(result, benched):
    trials = json.loads((benched[0] / "trials" / "sasrec.json").read_text())
    assert trials["identity"]["trials"] == 2 and len(trials["trials"]) == 2
    assert {t["settings"]["width"] for t in trials["trials"]} == {16}  # --set overrides the search
    first, second = trials["trials"]
    assert first["settings"] != second["settings"]
    chosen = max(trials["trials"], key=lambda t: t["validation_ndcg_10"])
    assert trials["best"] == chosen
    system = result["systems"]["sasrec"]
    assert set(system["settings"]) == {f"{n}={v}" for n, v in chosen["settings"].items()}
    # seed 0 is the trial once more
    assert system["by_seed"][0]["validation_ndcg_10"] == chosen["validation_ndcg_10"]
    assert len(result["systems"]["popular"]["search"]["trials"]) == 1  # nothing to choose


def test_a_second_call_trains_nothing(result, benched, here, monkeypatch):
    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(sasrec, "fit", never)
    assert here("bench", *benched[1]).code == 0
    assert json.loads((benched[0] / "bench.json").read_text()) == result


def test_a_bench_reuses_the_trials_of_tune(data, tmp_path, here, monkeypatch):
    arguments = ["--dataset", data, "--models", "item_knn", "--trials", 3, "--minutes", 5]
    called = here("tune", *arguments, "--out", tmp_path)
    assert called.code == 0 and "item_knn.json: 3 trials, best validation" in called.out
    monkeypatch.setattr(search, "search", None)
    path = tmp_path / "trials" / "item_knn.json"
    left = json.loads(path.read_text())
    left["best"]["settings"]["neighbours"] = 7
    path.write_text(json.dumps(left))
    assert here("bench", *arguments, "--out", tmp_path).code == 0
    system = json.loads((tmp_path / "bench.json").read_text())["systems"]["item_knn"]
    assert "neighbours=7" in system["settings"]
    model = json.loads((tmp_path / "item_knn" / "seed-0" / "fitted" / "config.json").read_text())
    assert model["settings"] == left["best"]["settings"]


def test_parallel_searches_have_the_same_results(data, tmp_path, here):
    arguments = ["--dataset", data, "--models", "popular,item_knn,sasrec", "--trials", 2, *QUICK]
    found = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        called = here("tune", *arguments, "--threads", "1", "--jobs", jobs, "--out", out)
        assert called.code == 0 and called.out.count("best validation NDCG@10") == 3
        files = [out / "trials" / f"{name}.json" for name in ("popular", "item_knn", "sasrec")]
        result = [json.loads(path.read_text()) for path in files]
        assert [len(t["trials"]) for t in result] == [1, 2, 2]  # the first has nothing to search
        found.append([[t["best"][k] for k in ("settings", "validation_ndcg_10")] for t in result])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("hits", "note"),
    [
        (1.0, "Best by NDCG@10: MACRec, fused."),
        (0.1, "MACRec, fused is worse than item-kNN"),
    ],
)
def test_the_list_of_a_run_is_compared_too(data, tmp_path, here, hits, note):
    folder = run_folder(tmp_path / "run", data, hits)
    arguments = ("--models", "popular,item_knn", "--out", tmp_path / "out")
    called = here("bench", "--dataset", folder, *arguments)
    assert called.code == 0 and note in called.out, called.err
    assert ("MACRec, fused is worse" in called.out) == (hits < 0.5)
    own = json.loads((tmp_path / "out" / "bench.json").read_text())["systems"]["run_fused"]
    assert own["mean"]["ndcg_10"] == pytest.approx(hits) and own["seeds"] == [None]
    assert own["mean"]["parameters"] == 17 and own["mean"]["validation_ndcg_10"] == 0.25
    assert own["mean"]["coverage_10"] == 0.5 and "train_seconds" not in own["mean"]


def test_a_run_on_other_users_is_not_compared(data, tmp_path, here):
    other = prepared(tmp_path / "other", follow(planted.last_plus_5, users=50))
    folder = run_folder(tmp_path / "run", other, 0.5)
    manifest = json.loads((folder / VERSION).read_text())
    manifest["artifacts"]["sequences"] = str(data / "sequences")
    (folder / VERSION).write_text(json.dumps(manifest))
    called = here("bench", "--dataset", folder, "--models", "popular", "--out", tmp_path / "out")
    assert called.code == 2 and "70 of 120 test users" in called.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "popular,gru4rec"], "there is no model gru4rec. The models are popular"),
        (["--seeds", "0"], "--seeds 0: give 1 or more"),
        (["--set", "epoch=3"], "write NAME=VALUE, where NAME is max_history, seen_items"),
        (["--models", "popular", "--set", "sasrec.width=3"], "where MODEL is popular"),
        (["--set", "seed=3"], "write NAME=VALUE"),
        (["--set", "epochs=0"], "epochs="),
        (["--set", "decay=-1"], "decay="),
    ],
)
def test_invalid_options_are_rejected(data, tmp_path, here, flags, message):
    called = here("bench", "--dataset", data, "--out", tmp_path, *flags)
    assert called.code == 2 and message in called.err


def test_parallel_trainings_have_the_same_results(data, tmp_path, here):
    result = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        arguments = ["--dataset", data, "--models", "item_knn,sasrec", "--seeds", "2", *QUICK]
        assert here("bench", *arguments, "--threads", "1", "--jobs", jobs, "--out", out).code == 0
        result.append(json.loads((out / "bench.json").read_text())["systems"])
    for name, seeds in (("item_knn", [0]), ("sasrec", [0, 1])):
        one, both = (systems[name] for systems in result)
        assert one["seeds"] == both["seeds"] == seeds
        measured = {"train_seconds", "users_per_second"}
        for a, b in zip(one["by_seed"], both["by_seed"], strict=True):
            assert {k: v for k, v in a.items() if k not in measured} == {
                k: v for k, v in b.items() if k not in measured
            }


def test_a_folder_without_a_data_set_is_rejected(tmp_path, here):
    called = here("bench", "--dataset", tmp_path, "--out", tmp_path / "out")
    assert called.code == 2 and f"no {VERSION} and no sequences and no items" in called.err


def test_vectors_in_the_folder_of_the_data_are_opened(data, tmp_path):
    for name in ("sequences", "items"):
        (tmp_path / name).symlink_to(data / name)
    (tmp_path / "text_embeddings").symlink_to(data / "items")
    found = open_dataset(tmp_path)
    assert (
        set(found.artifacts) == {"sequences", "items", "text_embeddings"} and found.run_list is None
    )
    assert models.model_inputs(found, "popular").text_embeddings is None  # it does not read them


def test_a_bench_uses_the_searches_of_an_earlier_one(result, benched, data, tmp_path, here):
    earlier = benched[0] / "bench.json"
    arguments = ["--dataset", data, "--models", "item_knn,sasrec", "--device", "cpu"]
    arguments += ["--set", "epochs=4", "--set", "sasrec.dropout=0.25", "--out", tmp_path]
    assert here("bench", *arguments, "--searched", earlier).code == 0
    again = json.loads((tmp_path / "bench.json").read_text())
    assert not (tmp_path / "trials").exists()
    assert again["searched"]["file"] == "bench.json"
    assert (again["trials"], again["minutes"]) == (result["trials"], result["minutes"]) == (2, 5)
    for name in ("item_knn", "sasrec"):
        assert again["systems"][name]["search"] == result["systems"][name]["search"]
    one, other = (t["systems"]["item_knn"] for t in (result, again))
    assert other["settings"] == one["settings"] != []
    assert other["mean"]["ndcg_10"] == one["mean"]["ndcg_10"]
    found = dict(s.split("=") for s in result["systems"]["sasrec"]["settings"])
    used = dict(s.split("=") for s in again["systems"]["sasrec"]["settings"])
    assert used == found | {"dropout": "0.25"} != found  # --set overrides the search


def test_a_search_on_other_sequences_is_used_with_a_warning(result, benched, tmp_path, here):
    other = prepared(tmp_path / "other", follow(planted.last_plus_5, users=50))
    arguments = ["--dataset", other, "--models", "item_knn", "--out", tmp_path / "out"]
    called = here("bench", *arguments, "--searched", benched[0] / "bench.json")
    assert called.code == 0 and "bench.json: the search used other sequences" in called.err
    system = json.loads((tmp_path / "out" / "bench.json").read_text())["systems"]["item_knn"]
    assert system["settings"] == result["systems"]["item_knn"]["settings"]


def test_an_earlier_bench_without_the_search_is_rejected(result, benched, data, tmp_path, here):
    def refused(path, *flags):
        arguments = ["--dataset", data, "--out", tmp_path / "out", "--searched", path, *flags]
        called = here("bench", *arguments)
        assert called.code == 2
        return called.err

    earlier, broken = benched[0] / "bench.json", tmp_path / "bench.json"
    assert "give --searched or --trials, not both" in refused(earlier, "--trials", 2)
    message = refused(earlier, "--models", "popular,fdsa,macrec")
    assert "no search for fdsa, macrec. It has searches for popular, item_knn, sasrec" in message
    assert "no bench.json of `macrec bench`" in refused(tmp_path / "nothing.json")
    broken.write_text("[]")
    assert "no bench.json of `macrec bench`" in refused(broken)
    systems = {name: {"search": None} for name in result["systems"]}
    broken.write_text(json.dumps(result | {"systems": systems}))
    assert "It has searches for no model" in refused(broken, "--models", "sasrec")
