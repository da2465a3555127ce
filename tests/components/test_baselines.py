"""The stage baselines: what the models learn, what they may see, and what comes out."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from components.baselines import model_folder, registry, spec, stage
from components.baselines.entries import ENTRIES, MODELS
from components.baselines.interface import TrainedModel
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.core.fingerprint import code_version, fingerprint, sources
from macrec.core.stage_command import parse_request
from macrec.data.sequences import seen_pairs
from macrec.metrics.ranking_metrics import metric_names, per_user, ranks_by_value
from macrec.metrics.significance import read_scores
from tests import planted_sequences as planted
from tests.planted_sequences import ITEMS, follow, prepared, run

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = (
    *("width=32", "inner=64", "layers=1", "heads=2", "dropout=0"),
    *("learning_rate=0.01", "batch_size=64"),
)
ATTENTION = ("width=32", "inner=32", "dropout=0.1", "batch_size=32")
SASREC = (*ATTENTION, "learning_rate=0.01")
QUICK = {
    "popular": (),
    "item_knn": ("shrinkage=0", "decay=0.5"),
    "sasrec": SASREC,
    "bert4rec": (*ATTENTION, "learning_rate=0.005", "last_only=0.5"),
    "fdsa": SASREC,
    "s3rec": (*SASREC, "pretrain_epochs=2"),
    "missrec": (*SASREC, "temperature=0.1"),
    "p5_cid": (*GENERATOR, "clusters=3", "tokens=20"),
    "vip5": (*GENERATOR, "tokens=21"),
}
EPOCHS = {
    **{"popular": 1, "item_knn": 1, "sasrec": 30, "bert4rec": 60},
    **{"fdsa": 20, "s3rec": 30, "missrec": 10, "p5_cid": 20, "vip5": 15},
}
HISTORY = {"max_history": 6}  # shorter than most histories


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = prepared(tmp_path_factory.mktemp("last"), follow(planted.last_plus_5, users=300))
    return planted.with_vectors(path, **planted.random_vectors())


@pytest.fixture(scope="module")
def two_back(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("two"), follow(planted.two_back_plus_7, users=300))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Every model on the rule of the last item."""
    out = tmp_path_factory.mktemp("trained")
    return {
        name: run(
            data, out / name, name, *QUICK[name], epochs=EPOCHS[name], validate_every=10, **HISTORY
        )
        for name in MODELS
    }


def test_every_model_is_known_to_the_table_of_tests():
    assert set(QUICK) == set(EPOCHS) == set(MODELS) == set(ENTRIES)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "popular"])
def test_a_model_learns_what_follows_the_last_item(trained, name):
    assert trained["popular"].metrics["hr_10"] < 0.45
    found = trained[name].metrics
    assert found["hr_10"] > 0.95
    if ENTRIES[name].seeded:  # neighbours have no direction: the item before is one as well
        assert found["hr_1"] > 0.9 and found["validation_ndcg_10"] > 0.9


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_a_model_learns_what_only_the_item_before_the_last_tells(two_back, tmp_path, name):
    limits = {"epochs": EPOCHS[name], "validate_every": 10}
    done = run(two_back, tmp_path, name, *QUICK[name], **limits, **HISTORY)
    assert done.metrics["hr_1"] > 0.8


@pytest.mark.parametrize("name", MODELS)
def test_metrics_and_targets_follow_from_the_predictions(trained, data, name):
    done = trained[name]
    scores = read_scores(done.predictions, name)
    for metric in metric_names():
        assert scores.values[metric].mean() == pytest.approx(done.metrics[metric], abs=1e-9)
    table = Artifact.open(data / "sequences").table(["user_id", "item_index"])
    histories = table.column("item_index").to_pylist()
    rows = done.predictions.table()
    assert rows.column("user_id").to_pylist() == table.column("user_id").to_pylist()
    assert rows.column("target").to_pylist() == [history[-1] for history in histories]
    assert set(rows.column("system").to_pylist()) == {name}
    assert done.metrics["users"] == len(histories) == rows.num_rows
    assert 0 < done.metrics["coverage_10"] <= 1 and done.metrics["users_per_second"] > 0


def test_equal_counts_count_at_their_expected_value(trained, data):
    histories = Artifact.open(data / "sequences").table(["item_index"]).column(0).to_pylist()
    count_N = np.bincount(np.concatenate([h[:-2] for h in histories]), minlength=ITEMS)
    seen = seen_pairs([np.array(h[:-1]) for h in histories])  # in no list: nobody comes back
    expected = per_user(ranks_by_value(count_N, np.array([h[-1] for h in histories]), seen))
    for metric, value_U in expected.items():
        assert trained["popular"].metrics[metric] == pytest.approx(value_U.mean())


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_scores_as_before(trained, data, name):
    table = trained[name].predictions.table()
    histories = Artifact.open(data / "sequences").table(["item_index"]).column(0).to_pylist()
    model = model_folder.load(trained[name].fitted)
    assert model.parameters == trained[name].metrics["parameters"]
    cut = [np.array(history[:-1][-6:], np.int32) for history in histories[:20]]
    scores_UN = model.score_all(cut)
    assert scores_UN.shape == (20, ITEMS)
    for user in range(20):
        row = table.slice(user, 1).to_pylist()[0]
        assert scores_UN[user, row["items"]] == pytest.approx(row["scores"], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "popular"])
def test_the_same_seed_gives_the_same_bytes(data, tmp_path, name):
    def digests(place, seed):
        done = run(data, tmp_path / place, name, *QUICK[name], epochs=2, seed=seed, **HISTORY)
        return done.predictions.digest, done.fitted.digest

    first = digests("first", 3)
    assert digests("again", 3) == first
    if ENTRIES[name].seeded:
        assert all(a != b for a, b in zip(first, digests("other", 4), strict=True))


def test_the_decay_comes_on_top_of_the_epochs(data, tmp_path):
    def epochs(decay):
        out = tmp_path / str(decay)
        done = run(data, out, "sasrec", *QUICK["sasrec"], epochs=3, decay=decay, **HISTORY)
        return done.metrics["epochs"]

    best = epochs(1.0) - 3
    assert epochs(0.0) == 3 and 1 <= best <= 3


class Spy:
    """A model that keeps what it is asked."""

    Config = registry.baseline("popular").Config

    def __init__(self):
        self.parameters, self.asked, self.phase = 0, {"fit": [], "after": []}, "fit"

    def fit(self, config, data, schedule):
        self.data = data
        self.ndcg = schedule.validate(self)
        self.phase = "after"
        return TrainedModel(self, [])

    def score_all(self, histories):
        self.asked[self.phase] += [history.tolist() for history in histories]
        return np.zeros((len(histories), ITEMS), np.float32)

    def state(self):
        return {"nothing": np.zeros(1)}


def test_a_model_sees_the_training_part_alone_and_histories_as_in_evaluate(tmp_path, monkeypatch):
    histories = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11], [12], [13, 14, 15, 16]]
    spy = Spy()
    for module in (registry, stage):
        monkeypatch.setattr(module, "baseline", lambda name: spy)
    given = {"max_history": 4, "seen_items": "keep"}
    done = run(prepared(tmp_path / "data", histories), tmp_path / "out", "popular", **given)
    training = spy.data.training
    parts = np.split(training.items, training.offsets[1:-1])
    assert [part.tolist() for part in parts] == [[1, 2, 3, 4], [7], [], [], [13, 14]]
    with pytest.raises(ValueError, match="read-only"):
        training.items.sort()
    # validation: the item before the last of all with three or more; twice, in fit and at the end
    validation = [[1, 2, 3, 4], [7], [13, 14]]
    # test: all before the last, the validation item among them, the last four of it
    test = [[2, 3, 4, 5], [7, 8], [10], [13, 14, 15]]
    assert sorted(spy.asked["fit"]) == sorted(validation)
    assert sorted(spy.asked["after"]) == sorted(test + validation)
    assert done.predictions.table().column("target").to_pylist() == [6, 9, 11, 16]
    # all items tie for every place: the expected value is that of chance
    assert done.metrics["hr_10"] == pytest.approx(10 / ITEMS)
    assert done.metrics["validation_ndcg_10"] == spy.ndcg


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("sasrec", ("widht=3",), "sasrec has no setting widht; it has width, layers"),
        ("popular", ("k=3",), "popular has no setting k; it has none"),
        ("sasrec", ("width=3",), "width is no multiple of heads"),
        ("sasrec", ("width=wide",), "width='wide'"),
        ("sasrec", ("width",), "write NAME=VALUE"),
        ("item_knn", ("decay=0",), "decay is not in 0..1"),
        ("bert4rec", ("hidden=1",), "bert4rec: hidden is not between 0 and 1"),
        ("fdsa", ("dropout=1",), "fdsa: dropout is not in 0..1"),
        ("s3rec", ("pretrain_epochs=-1",), "s3rec: pretrain_epochs is negative"),
        ("s3rec", ("hidden=0",), "s3rec: hidden is not between 0 and 1"),
        ("missrec", ("interest_share=0",), "missrec: interest_share is not in 0..1"),
        ("missrec", ("temperature=0",), "missrec: temperature is not above 0"),
    ],
)
def test_settings_that_a_model_does_not_have_are_refused(data, tmp_path, model, settings, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        run(data, tmp_path, model, *settings)


def test_nobody_to_validate_on_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing to validate on"):
        run(prepared(tmp_path / "data", [[1, 2], [3, 4]]), tmp_path / "out", "popular")


def test_what_a_model_does_not_read_may_be_left_out_and_is_no_part_of_its_identity(
    two_back, monkeypatch
):
    data = two_back  # without vectors
    given = {"text_embeddings": "anything", "semantic_ids": "codes"}
    entry = ENTRIES["popular"]._replace(reads=("text_embeddings",))
    monkeypatch.setitem(stage.ENTRIES, "popular", entry)
    inputs = spec.Inputs(**{**vars(planted.inputs(data)), **given})
    used = spec.used_inputs(spec.Settings(model="popular"), inputs)
    assert (used.text_embeddings, used.semantic_ids) == ("anything", None)
    flags = ["--sequences", "a", "--items", "b", "--out", "o"]
    assert set(parse_request(spec.STAGE, flags).artifacts) == {"sequences", "items"}
    with pytest.raises(UserError, match="give --items"):
        parse_request(spec.STAGE, flags[:2] + flags[4:])
    with pytest.raises(UserError, match="popular reads text_embeddings"):
        stage.open_data(
            spec.Settings(model="popular"), planted.inputs(data), SimpleNamespace(threads=0)
        )


def test_a_result_is_of_the_code_of_its_model_and_not_of_the_others(two_back):
    """So that a change of one model leaves what the others have learned valid."""
    configs = {name: spec.Settings(model=name) for name in MODELS}
    read = {
        n: set(sources("components.baselines.stage", spec.unused_imports(configs[n])))
        for n in MODELS
    }
    for name in MODELS:
        assert f"components.baselines.{name}" in read[name]
    assert "components.baselines.missrec" not in read["s3rec"]
    assert "components.baselines.sasrec" in read["s3rec"]  # whose network it trains
    assert "components.baselines.learning" not in read["item_knn"]
    assert len({code_version(spec.STAGE, config) for config in configs.values()}) == len(MODELS)
    inputs = planted.inputs(two_back)
    alone = fingerprint(spec.STAGE, configs["popular"], inputs)
    everything = replace(spec.STAGE, unused_imports=lambda _: set())
    assert fingerprint(everything, configs["popular"], inputs) != alone
