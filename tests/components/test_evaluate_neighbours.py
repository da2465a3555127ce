"""The neighbours and the hybrid list of the stage evaluate."""

from dataclasses import replace
from itertools import product, starmap

import numpy as np
import pytest

from macrec.core.artifact import Artifact
from macrec.data import schema
from macrec.data.columns import vector_column
from macrec.data.sequences import Sequences
from macrec.generator.model import Recommender
from macrec.metrics.ranking_metrics import per_user, ranks_in_lists
from macrec.ranking.fusion import Weights, fuse_with_neighbours, neighbour_list
from macrec.ranking.neighbour_mix import Mix, mixed_neighbours
from macrec.ranking.ranker import Ranker
from tests.artifacts import dataset
from tests.components.test_evaluate import ITEMS, VOCABULARY, make_inputs, run

# the model, untrained, knows nothing
from tests.components.test_evaluate import recommender as recommender

USERS, TOGETHER = 40, 5
pytestmark = pytest.mark.usefixtures("one_thread")


def walk(user):
    """Six items of a group of TOGETHER, each followed by the next of the group."""
    group, place = user % (ITEMS // TOGETHER), user // (ITEMS // TOGETHER)
    return [group * TOGETHER + (place + step) % TOGETHER for step in range(4)]


@pytest.fixture(scope="module")
def lists():
    """Groups of items that are bought together; half of the users see one off in between."""
    generator = np.random.default_rng(5)
    drawn = [walk(user) for user in range(USERS)]
    for user in range(0, USERS, 2):
        drawn[user][0] = int(generator.integers(ITEMS))
    return drawn


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("neighbours")


@pytest.fixture(scope="module")
def evaluated(path, lists, recommender):
    """The stage run once."""
    return run(path, make_inputs(path, lists, recommender), beams=4, seen_items="drop")


def stated_mix(path):
    stated = Artifact.open(path / "predictions").metadata
    return Mix(
        *(stated[name] for name in ("neighbour_asymmetry", "similar_item_share", "successor_share"))
    )


def candidates(recommender, lists, back, path, mix=None):
    """Those that the stage must rank, for the item `back` places before the end."""
    training = [items[:-2] for items in lists]
    offsets = np.cumsum([0, *(len(items) for items in training)])
    flat = Sequences(np.array([i for t in training for i in t], np.int32), offsets)
    mix = mix or stated_mix(path)
    latents = Artifact.open(path / "latents")
    near = mixed_neighbours(flat, ITEMS, latents, [mix])[mix]
    ranker = Ranker(recommender, device="cpu", batch_size=64, drop_seen=True, neighbours=near)
    return ranker.candidates([np.array(items[:-back]) for items in lists], 4)


def test_lists_are_those_of_neighbours_counted_in_the_training_part(
    evaluated, recommender, lists, path
):
    metrics, predictions, _ = evaluated
    found = candidates(recommender, lists, 1, path)
    weights = Weights(metrics["fusion_weight"], metrics["neighbour_weight"])
    assert weights.neighbours
    for system, ranked in (
        ("neighbours", neighbour_list(found, 20)),
        ("hybrid", fuse_with_neighbours(found, weights, 20)),
    ):
        expected = [[i for i in row if i >= 0] for row in ranked.items_UK.tolist()]
        assert [p["items"] for p in predictions if p["system"] == system] == expected


def test_the_weight_is_the_best_of_the_validation_users(evaluated, recommender, lists, path):
    metrics, *_ = evaluated
    targets = np.array([items[-2] for items in lists])
    scores = {}
    for mix in starmap(Mix, product((0.5, 0.7), (0.0, 0.3), (0.0, 0.2, 0.4))):
        found = candidates(recommender, lists, 2, path, mix)
        for weight in np.arange(10) / 10:
            ranked = fuse_with_neighbours(found, Weights(metrics["fusion_weight"], weight), 20)
            ranks = ranks_in_lists(ranked.items_UK, ranked.scores_UK, targets)
            ndcg = per_user(ranks, (10,))["ndcg_10"].mean()
            scores[float(weight), mix] = ndcg

    def order(at):
        weight, (asymmetry, alike, after) = at
        return round(scores[at], 9), -weight, -alike, -after, -asymmetry

    best = max(scores, key=order)
    assert metrics["neighbour_weight"] == pytest.approx(best[0])
    assert stated_mix(path) == best[1]
    assert metrics["validation_ndcg_10"] == pytest.approx(scores[best], abs=1e-6)


def test_neighbours_that_know_what_the_model_does_not_lead_the_list(evaluated):
    metrics, _, page = evaluated
    assert metrics["hybrid_hr_10"] > metrics["fused_hr_10"] + 0.2
    assert metrics["hybrid_ndcg_10"] >= metrics["neighbours_ndcg_10"] - 0.05
    weight = metrics["neighbour_weight"]
    assert (
        f"+ {weight:g} x share of the item neighbours, chosen on {USERS} validation users" in page
    )
    assert "HR@10, hybrid<" in page
    assert "weight of the neighbours" in page and "Hybrid minus the better of the two" in page


def test_the_weight_stands_in_the_predictions_for_recommend(evaluated, path):
    stated = Artifact.open(path / "predictions").metadata
    assert stated["neighbour_weight"] == evaluated[0]["neighbour_weight"]


def test_a_share_that_is_the_only_one_is_taken(tmp_path, lists, recommender):
    shown = {}
    for share in (0.0, 0.5):
        path = tmp_path / str(share)
        path.mkdir()
        options = {"beams": 4, "seen_items": "drop", "similar_item_shares": (share,)}
        _, predictions, page = run(path, make_inputs(path, lists, recommender), **options)
        shown[share] = [p["items"] for p in predictions if p["system"] == "neighbours"]
        assert ("Items with similar latents have" in page) == (share > 0)
        assert Artifact.open(path / "predictions").metadata["similar_item_share"] == share
    longer = [len(a) < len(b) for a, b in zip(shown[0.0], shown[0.5], strict=True)]
    assert longer.count(True) > USERS / 2


def test_the_asymmetry_is_the_better_one_of_the_validation_users(tmp_path, recommender):
    generator = np.random.default_rng(0)
    lists = [[*walk(user)[:2], 0, *generator.integers(0, ITEMS, 3)] for user in range(USERS)]
    by = {}
    for asymmetries in ((0.0,), (1.0,), (0.0, 1.0), (1.0, 0.0)):
        path = tmp_path / str(asymmetries)
        path.mkdir()
        inputs = make_inputs(path, lists, recommender)
        options = {"beams": 4, "similar_item_shares": (0.0,), "successor_shares": (0.0,)}
        options |= {"neighbour_asymmetries": asymmetries}
        metrics, *_ = run(path, inputs, **options)
        by[asymmetries] = metrics["validation_ndcg_10"], stated_mix(path).asymmetry
    alone, _ = by[(1.0,)]
    assert alone > 1.1 * by[(0.0,)][0]
    assert by[(0.0, 1.0)] == by[(1.0, 0.0)] == (pytest.approx(alone), 1.0)


def test_successors_are_taken_where_the_order_tells_more(tmp_path, recommender):
    """Everybody goes up by one, from where the circle begins for him; only the order says so."""
    lists = [[(user + step) % ITEMS for step in range(6)] for user in range(ITEMS)]
    inputs = make_inputs(tmp_path, lists, recommender)
    options = {"beams": 4, "seen_items": "keep", "similar_item_shares": (0.0,)}
    metrics, predictions, page = run(tmp_path, inputs, successor_shares=(0.0, 0.9), **options)
    assert stated_mix(tmp_path).successor_share == 0.9
    assert "Successors have 0.9 of the co-occurrence score" in page
    first = {p["user_id"]: p["items"][0] for p in predictions if p["system"] == "neighbours"}
    assert set(first.values()) == set(range(ITEMS)) and metrics["neighbours_hr_1"] > 0.99
    (tmp_path / "none").mkdir()
    without, *_ = run(tmp_path / "none", make_inputs(tmp_path / "none", lists, recommender),
                      successor_shares=(0.0,), **options)  # fmt: skip
    assert without["neighbours_hr_1"] < 0.5 and without["hybrid_hr_1"] < metrics["hybrid_hr_1"]


def test_the_share_is_the_better_one_of_the_validation_users(tmp_path, recommender):
    """Nothing is counted, for each trains on one item; groups can be told by the latents alone."""
    lists = [[group * TOGETHER + (k + step) % TOGETHER for step in range(3)]
             for group in range(ITEMS // TOGETHER) for k in range(TOGETHER)]  # fmt: skip
    inputs = make_inputs(tmp_path, lists, recommender)
    table = inputs.latents.table().to_pydict()
    angle_N = 2 * np.pi * (np.arange(ITEMS) // TOGETHER) / (ITEMS // TOGETHER)
    circle_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    has_text = np.ones(ITEMS, bool)
    table["text_latent"] = vector_column(circle_N2, has_text)
    table["image_latent"] = vector_column(circle_N2, ~has_text)
    told = dataset(tmp_path / "told", schema.latents(2, 2), [*table.values()])
    metrics, *_ = run(tmp_path, replace(inputs, latents=told), beams=4, seen_items="drop")
    assert stated_mix(tmp_path).similar_item_share == 0.3
    assert stated_mix(tmp_path).successor_share == 0  # of equals the plainest
    assert metrics["neighbour_weight"] > 0
    assert metrics["neighbours_hr_10"] > metrics["fused_hr_10"] + 0.2


def test_left_out_there_is_no_trace_of_them(tmp_path, lists, recommender, evaluated):
    inputs = make_inputs(tmp_path, lists, recommender)
    metrics, predictions, page = run(
        tmp_path, inputs, beams=4, seen_items="drop", neighbour_weights=(), single_modality_beams=0
    )
    assert {p["system"] for p in predictions} == {"text", "image", "fused"}
    assert metrics["fused_ndcg_10"] == evaluated[0]["fused_ndcg_10"]
    assert not [name for name in metrics if name.startswith(("hybrid", "neighbour"))]
    assert (
        "Neighbours are counted" not in page
        and "Hybrid" not in page
        and "weight of the neighbours" not in page
    )
    assert Artifact.open(tmp_path / "predictions").metadata["neighbour_weight"] == 0


def test_one_modality_and_its_neighbours(tmp_path, lists, recommender):
    none_NL = np.full_like(recommender.image_codes_NL, -1)
    text_NL = recommender.text_codes_NL
    alone = Recommender(recommender.model, VOCABULARY, text_NL, none_NL, 4)
    inputs = make_inputs(tmp_path, lists, alone)
    metrics, predictions, page = run(tmp_path, inputs, beams=4, seen_items="drop")
    assert {p["system"] for p in predictions} == {"text", "neighbours", "hybrid"}
    assert "fusion_weight" not in metrics and metrics["neighbour_weight"] > 0
    assert metrics["hybrid_hr_10"] > metrics["text_hr_10"] + 0.2
    assert "probability by the text score" in page and "weight of the text score" not in page


def test_nobody_to_validate_on_leaves_the_neighbours_out(tmp_path, recommender):
    inputs = make_inputs(tmp_path, [[1, 2]] * 4, recommender)
    metrics, *_ = run(tmp_path, inputs, beams=4, similar_item_shares=(0.0,))
    assert metrics["neighbour_weight"] == 0 and "validation_ndcg_10" not in metrics
    assert metrics["hybrid_ndcg_10"] == metrics["fused_ndcg_10"]
    assert "neighbours_ndcg_10" not in metrics  # nobody has any
