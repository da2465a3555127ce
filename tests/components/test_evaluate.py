"""The stage on a small catalogue whose metrics are recomputed from first principles."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.evaluate import spec
from components.evaluate.example_users import choose_users, thumbnail
from macrec.core.artifact import (
    Artifact,
    DatasetOutput,
    FolderOutput,
    HtmlOutput,
    MarkdownOutput,
    Source,
)
from macrec.core.errors import UserError
from macrec.core.executor import execute
from macrec.data import schema
from macrec.data.columns import codes_column, vector_column
from macrec.generator.model import ModelSize, Recommender, build_model, save_recommender
from macrec.generator.tokens import Vocabulary
from macrec.ranking.ranker import rank_users
from tests.artifacts import dataset, sequences_of

ITEMS, USERS, LEVELS = 30, 25, 2
VOCABULARY = Vocabulary(levels=LEVELS, codebook_size=6)
MISSING = [3, 4, 5]
ORDER = [
    *("head", "middle", "tail", "unseen", "1 to 2", "3 to 5"),
    *("with text", "with picture", "without picture"),
]


def folder(path, history, fill=lambda path: None) -> Artifact:
    output = FolderOutput(path)
    output.prepare()
    fill(path)
    (path / "history.json").write_text(json.dumps(history))
    output.commit({"stage": path.name, "config": {}})
    return Artifact.open(path)


QUANTIZER_HISTORY = {
    "epochs": [
        {"epoch": e, "text_rq": 1 / e, "image_rq": 2 / e, "align": 0.5, "codebooks_refitted": True}
        for e in (1, 2)
    ],
    "final": {},
}
TRAIN_HISTORY = [
    {
        "step": 10 * e,
        "epoch": e,
        "learning_rate": 0.001,
        "losses": {"seq_text_text": 3 / e, "seq_image_text": 3 / e, "implicit": 0.1},
        "validation_ndcg_at_10": None if e == 1 else 0.1 * e,
    }
    for e in (1, 2, 3)
]


def picture(path, fill="red"):
    Image.new("RGB", (300, 200), fill).save(path)


@pytest.fixture(scope="module")
def lists():
    generator = np.random.default_rng(5)
    return [generator.integers(0, ITEMS, n).tolist() for n in [2, 1, *[6] * (USERS - 2)]]


@pytest.fixture(scope="module")
def recommender():
    codes_NL = np.stack(np.divmod(np.random.default_rng(2).permutation(36)[:ITEMS], 6), 1)
    text_NL = codes_NL.astype(np.int32)
    image_NL = text_NL[::-1].copy()
    image_NL[MISSING] = -1
    torch.manual_seed(1)
    model = build_model(VOCABULARY, ModelSize(d_model=16, d_ff=32, d_kv=8, layers=1, heads=2))
    return Recommender(model.eval(), VOCABULARY, text_NL, image_NL, max_history=4)


STATUS = ["ok"] * 25 + ["absent"] * 3 + ["unreadable"] * 2


def image_vectors(path, **metadata):
    vectors = vector_column(np.ones((ITEMS, 2), np.float32), np.array(STATUS) == "ok")
    columns = [list(range(ITEMS)), vectors, STATUS]
    return dataset(path / "image_embeddings", schema.embeddings(2), columns, **metadata)


def make_inputs(path, lists, recommender, images=None, image_uri=lambda item: None):
    index = list(range(ITEMS))
    ids = [f"id{i}" for i in index]
    uris = [image_uri(i) for i in index]
    titles = [f"<b>Title {i}</b>" for i in index]
    columns = [index, ids, titles, titles, uris, [uri is not None for uri in uris]]
    codes = [codes_column(recommender.codes_NL(m)) for m in ("text", "image")]
    before_NL = recommender.text_codes_NL.copy()
    before_NL[1] = before_NL[0]
    moved = [-1, 1] + [-1] * (ITEMS - 2)
    vectors = [
        vector_column(
            np.random.default_rng(seed).normal(size=(ITEMS, 2)), recommender.codes_NL(m)[:, 0] >= 0
        )
        for seed, m in enumerate(("text", "image"))
    ]
    return spec.Inputs(
        items=dataset(path / "items", schema.ITEMS, columns),
        sequences=sequences_of(path / "sequences", lists),
        semantic_ids=dataset(
            path / "semantic_ids", schema.SEMANTIC_IDS, [index, ids, *codes, moved, [-1] * ITEMS]
        ),
        latents=dataset(
            path / "latents",
            schema.latents(2, 2),
            [index, *vectors, codes_column(before_NL), codes[1]],
        ),
        quantizer=folder(path / "quantizer", QUANTIZER_HISTORY),
        recommender=folder(
            path / "recommender", TRAIN_HISTORY, lambda to: save_recommender(to, recommender)
        ),
        images=Source(str(images)) if images else None,
    )


def run(path, inputs, **config):
    outputs = spec.Outputs(
        predictions=DatasetOutput(path / "predictions"),
        report=HtmlOutput(path / "report.html"),
        summary=MarkdownOutput(path / "summary.md"),
    )
    usual = {"beams": ITEMS, "single_modality_beams": 12, "seen_items": "keep"}
    given = spec.Settings(**{**usual, **config})
    done = execute(
        spec.STAGE, given, inputs, outputs, spec.Execution(device="cpu", batch_size=7, threads=1)
    )
    predictions = Artifact.open(outputs.predictions.path).table().to_pylist()
    return done.metrics, predictions, outputs.report.path.read_text()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def slices(path, evaluated):
    return json.loads(Artifact.open(path / "predictions").file("slices.json").read_text())


@pytest.fixture(scope="module")
def evaluated(path, lists, recommender):
    """The stage run once, with a folder of good and bad pictures."""
    images = path / "images"
    images.mkdir()
    for item in range(ITEMS):
        picture(images / f"{item}.jpg")
    (images / "7.jpg").write_bytes((images / "7.jpg").read_bytes()[:200])
    inputs = make_inputs(path, lists, recommender, images, lambda item: f"{item}.jpg")
    vectors = image_vectors(path, pictures={"named": 30, "found": 27})
    return run(path, replace(inputs, image_embeddings=vectors))


def test_every_user_with_a_history_is_ranked_by_every_system(evaluated, lists):
    metrics, predictions, _ = evaluated
    able = {f"user {u}" for u, items in enumerate(lists) if len(items) >= 2}
    assert metrics["users"] == len(able) == USERS - 1
    assert metrics["users_without_history"] == 1
    systems = ("text", "image", "fused", "text_wide", "image_wide", "neighbours", "hybrid")
    for system in systems:
        assert {p["user_id"] for p in predictions if p["system"] == system} == able
    assert len(predictions) == len(systems) * len(able)


def test_the_report_contains_the_share_of_pictures_found(evaluated, path):
    for shown in (evaluated[2], (path / "summary.md").read_text()):
        found = shown.partition("Pictures found")[2][:200]
        assert "27" in found and "90.0 % of 30" in found
        without = shown.partition("Items without image vector")[2][:200]
        assert "5" in without and "3 absent, 2 unreadable" in without


def test_vectors_that_no_encoder_made_have_no_pictures(path, lists, recommender, tmp_path):
    inputs = make_inputs(tmp_path, lists, recommender)
    page = run(tmp_path, replace(inputs, image_embeddings=image_vectors(tmp_path)))[2]
    assert "Pictures found" not in page and "Items without image vector" not in page


def test_predictions_are_those_of_the_ranking(evaluated, lists, recommender):
    metrics, predictions, _ = evaluated
    tested = [items for items in lists if len(items) >= 2]
    ranked = rank_users(
        recommender,
        [np.array(items[:-1]) for items in tested],
        beams=ITEMS,
        fusion_weight=metrics["fusion_weight"],
    )
    fused = [p for p in predictions if p["system"] == "fused"]
    assert [p["items"] for p in fused] == ranked.fused_items_UK.tolist()
    assert [p["target"] for p in fused] == [items[-1] for items in tested]
    ids = [f"user {u}" for u, items in enumerate(lists) if len(items) >= 2]
    assert [p["user_id"] for p in fused] == ids
    images = [p["items"] for p in predictions if p["system"] == "image"]
    assert not set(MISSING) & {item for items in images for item in items}


def test_metrics_follow_from_the_predictions(evaluated):
    metrics, predictions, _ = evaluated
    for system in ("text", "image", "fused", "text_wide", "image_wide", "hybrid"):
        places = [
            p["items"].index(p["target"]) + 1 if p["target"] in p["items"] else None
            for p in predictions
            if p["system"] == system
        ]
        for cutoff in (1, 5, 10, 20):
            inside = [place for place in places if place and place <= cutoff]
            expected = {
                "hr": len(inside),
                "ndcg": sum(1 / np.log2(place + 1) for place in inside),
                "mrr": sum(1 / place for place in inside),
            }
            for name, total in expected.items():
                value = metrics[f"{system}_{name}_{cutoff}"]
                assert value == pytest.approx(total / len(places), abs=1e-9)


def test_what_is_shown_is_measured_over_the_whole_catalogue(evaluated, lists):
    metrics, predictions, page = evaluated
    taken = np.bincount([item for items in lists for item in items[:-2]], minlength=ITEMS)
    bits = -np.log2((taken + 1) / (taken.sum() + ITEMS))
    first_ten = np.argsort(-taken, kind="stable")[:10]
    shown = {"popular": first_ten.tolist()}
    for p in predictions:
        shown.setdefault(p["system"], []).extend(p["items"][:10])
    for system, items in shown.items():
        counts = np.bincount(items, minlength=ITEMS)
        apart = np.abs(counts[:, None] - counts).mean()  # Gini: mean difference over twice the mean
        assert metrics[f"{system}_coverage_10"] == pytest.approx(len(set(items)) / ITEMS)
        assert metrics[f"{system}_gini_10"] == pytest.approx(apart / (2 * counts.mean()))
        assert metrics[f"{system}_novelty_10"] == pytest.approx(bits[items].mean())
        cells = f"{metrics[f'{system}_gini_10']:.3f}", f"{metrics[f'{system}_novelty_10']:.2f}"
        assert "<td>{}</td><td>{}</td>".format(*cells) in page


def test_slices_follow_from_the_predictions(evaluated, slices, lists):
    metrics, predictions, page = evaluated
    hybrid = [p for p in predictions if p["system"] == "hybrid"]
    tested = [items for items in lists if len(items) >= 2]
    taken = np.bincount([item for items in lists for item in items[:-2]], minlength=ITEMS)

    def popularity(target):
        above = taken[taken > taken[target]].sum() / taken.sum()
        where = "head" if above < 1 / 3 else "middle" if above < 2 / 3 else "tail"
        return where if taken[target] else "unseen"

    groups = {
        "popularity": lambda items: popularity(items[-1]),
        "history": lambda items: "1 to 2" if len(items) - 1 < 3 else "3 to 5",
        "text": lambda items: "with text",
        "image": lambda items: ("without" if items[-1] in MISSING else "with") + " picture",
    }
    assert {s["by"] for s in slices} == set(groups)
    for by, group in groups.items():
        named = [group(items) for items in tested]
        assert [s["slice"] for s in slices if s["by"] == by] == [
            name for name in ORDER if name in named
        ]
        for part in (s for s in slices if s["by"] == by):
            inside = [p for p, name in zip(hybrid, named, strict=True) if name == part["slice"]]
            hits = [p["target"] in p["items"][:10] for p in inside]
            told = part["systems"]["hybrid"]["hr_10"]
            assert part["users"] == len(inside)
            assert f"{part['slice']}</th><td>{len(inside)}</td><td>{told['mean']:.4f}" in page
            assert told["mean"] == pytest.approx(np.mean(hits))
            assert told["low"] <= told["mean"] <= told["high"]
            assert (told["low"] < told["high"]) == (0 < sum(hits) < len(hits))
    for by in groups:
        of = [s for s in slices if s["by"] == by]
        for system in ("hybrid", "popular"):
            for metric in ("hr_10", "ndcg_10"):
                total = sum(s["users"] * s["systems"][system][metric]["mean"] for s in of)
                assert total / len(tested) == pytest.approx(metrics[f"{system}_{metric}"])


def test_popular_counts_training_interactions_only(evaluated, lists):
    metrics = evaluated[0]
    training = [item for items in lists for item in items[:-2]]
    counts = np.bincount(training, minlength=ITEMS)
    total = 0.0
    tested = [items for items in lists if len(items) >= 2]
    for items in tested:
        above = int((counts > counts[items[-1]]).sum())
        tied = int((counts == counts[items[-1]]).sum())
        total += min(max(10 - above, 0), tied) / tied
    assert metrics["popular_hr_10"] == pytest.approx(total / len(tested))
    everything = np.bincount([i for items in lists for i in items], minlength=ITEMS)
    assert (everything != counts).any()
    assert metrics["random_hr_10"] == pytest.approx(10 / ITEMS)


@pytest.mark.parametrize("seen_items", ["drop", "auto"])
def test_seen_items_are_in_no_list_where_they_are_dropped(seen_items, tmp_path, lists, recommender):
    inputs = make_inputs(tmp_path, lists, recommender)
    metrics, predictions, page = run(tmp_path, inputs, seen_items=seen_items, examples=4)
    tested = [items for items in lists if len(items) >= 2]
    assert any(items[-1] in items[:-1] for items in tested)  # such a target cannot be found
    users = {f"user {u}": items for u, items in enumerate(lists)}
    for p in predictions:
        assert not set(p["items"]) & set(users[p["user_id"]][:-1])
        assert p["system"] != "fused" or len(p["items"]) == 20
    counts = np.bincount([i for items in lists for i in items[:-2]], minlength=ITEMS)
    total, shown = 0.0, set()
    for *history, target in tested:
        open_N = ~np.isin(np.arange(ITEMS), history)
        shown |= set([i for i in np.argsort(-counts, kind="stable") if open_N[i]][:10])
        if open_N[target]:
            above = int((counts[open_N] > counts[target]).sum())
            tied = int((counts[open_N] == counts[target]).sum())
            total += min(max(10 - above, 0), tied) / tied
    assert metrics["popular_hr_10"] == pytest.approx(total / len(tested))
    assert metrics["popular_coverage_10"] == len(shown) / ITEMS
    assert "leave out what is in the user" in page
    assert Artifact.open(tmp_path / "predictions").metadata["seen_items"] == "drop"


def test_weight_is_chosen_on_validation_users(tmp_path, lists, recommender, evaluated):
    tested = [items for items in lists if len(items) >= 3]
    scores = {}
    for weight in (0.0, 0.35, 1.0):
        ranked = rank_users(
            recommender, [np.array(i[:-2]) for i in tested], beams=ITEMS, fusion_weight=weight
        )
        places = [
            row.index(items[-2]) + 1
            for row, items in zip(ranked.fused_items_UK.tolist(), tested, strict=True)
            if items[-2] in row[:10]
        ]
        scores[weight] = sum(1 / np.log2(place + 1) for place in places)
    inputs = make_inputs(tmp_path, lists, recommender)
    metrics, *_ = run(tmp_path, inputs, fusion_weights=(0.0, 0.35, 1.0), examples=0)
    assert metrics["fusion_weight"] == max(scores, key=lambda weight: scores[weight])


def test_report_shows_systems_curves_examples_and_pictures(evaluated):
    page = evaluated[2]
    for words in ("Text only, 12 beams", "Most popular", "Sequence tasks", "Rq", "colour"):
        assert words in page
    assert "<b>Title" not in page  # titles are text, whatever they hold
    pictures = set(re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page))
    assert pictures
    for encoded in pictures:
        assert max(Image.open(io.BytesIO(base64.b64decode(encoded))).size) == 96


def test_report_says_how_many_items_the_histories_told_of(tmp_path, lists, recommender, evaluated):
    met = {"item_id": ["id0", "id7"], "vector": [[1.0], [2.0]]}
    inputs = make_inputs(tmp_path / "in", lists, recommender)
    quantizer = folder(
        tmp_path / "quantizer",
        QUANTIZER_HISTORY,
        lambda to: pq.write_table(pa.table(met), to / "histories.parquet"),
    )
    *_, page = run(tmp_path, replace(inputs, quantizer=quantizer))
    assert "Items met in histories" not in evaluated[2]
    assert "Items met in histories" in page and "6.7 % of items; part of their codes" in page


@pytest.mark.parametrize(
    ("present", "absent", "side"), [("text", "image", "text"), ("image", "text", "pictures")]
)
def test_one_modality_alone_has_its_systems_and_no_other(
    tmp_path, lists, recommender, present, absent, side
):
    codes = {"text": recommender.text_codes_NL, "image": recommender.text_codes_NL[::-1].copy()}
    codes[absent] = np.full_like(codes[absent], -1)
    alone = Recommender(recommender.model, VOCABULARY, codes["text"], codes["image"], 4)
    inputs = make_inputs(tmp_path, lists, alone)
    metrics, predictions, page = run(tmp_path, inputs, published_fusion=True, neighbour_weights=())
    systems = {n.removesuffix("_hr_10") for n in metrics if n.endswith("_hr_10")}
    assert systems == {"popular", present, "random"}
    assert "fusion_weight" not in metrics
    assert {p["system"] for p in predictions} == {present}
    ranked = rank_users(alone, [np.array(i[:-1]) for i in lists if len(i) > 1], beams=ITEMS)
    expected = getattr(ranked, f"{present}_items_UK").tolist()
    assert [p["items"] for p in predictions] == expected
    summary = (tmp_path / "summary.md").read_text()
    for shown in (page, summary):
        assert f"Generative recommendation from {side} alone" in shown
        assert f"No item has {absent} codes" in shown
        assert f"No {absent} codes in this run." in shown
        assert not re.search("Fused|fusion weight|weight of the text score", shown)
        assert f"Items with {absent} codes" not in shown
        assert f"HR@10, {present} only" in shown.replace("\\", "")
    assert f"Validation NDCG@10, {present} |" in summary
    assert "data:image" not in page


def test_other_rules_of_fusion_are_extra_rows(tmp_path, lists, recommender, evaluated):
    inputs = make_inputs(tmp_path, lists, recommender)
    options = {"published_fusion": True, "reciprocal_fusion": True, "reciprocal_constant": 7}
    metrics, predictions, page = run(
        tmp_path, inputs, single_modality_beams=0, precision="bfloat16", renormalise=True, **options
    )
    assert not {"text_wide_hr_10"} & set(metrics)
    assert not {"fused_published_hr_10", "fused_rrf_hr_10"} & set(evaluated[0])
    assert {"fused_published_hr_10", "fused_rrf_hr_10", "fused_rrf_novelty_10"} <= set(metrics)
    assert "Fused, published rule" in page
    assert "Matrix products of the generator are bfloat16." in page
    assert "Fused, reciprocal rank: 1 / (7 + rank by text)" in page
    best = max(s for p in predictions if p["system"] == "fused_rrf" for s in p["scores"])
    assert 1 / 8 < best <= 2 / 8  # of first places, k being 7


def test_low_precision_changes_scores_a_little_and_is_stated(
    tmp_path, lists, recommender, evaluated
):
    inputs = make_inputs(tmp_path, lists, recommender)
    _, predictions, _ = run(tmp_path, inputs, precision="bfloat16")
    low, high = (
        [p["scores"][0] for p in found if p["system"] == "text"]
        for found in (predictions, evaluated[1])
    )
    assert low != high and low == pytest.approx(high, rel=0.05)
    assert Artifact.open(tmp_path / "predictions").metadata["precision"] == "bfloat16"


def test_same_seed_same_bytes(tmp_path, lists, recommender):
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        inputs = make_inputs(tmp_path / name, lists, recommender)
        results.append(run(tmp_path / name, inputs))
    assert results[0] == results[1]


def test_users_in_chunks_give_the_same_lists(tmp_path, lists, recommender, evaluated, monkeypatch):
    from components.evaluate import systems

    monkeypatch.setattr(systems, "USERS_AT_ONCE", 10)
    inputs = make_inputs(tmp_path, lists, recommender)
    metrics, predictions, _ = run(tmp_path, inputs, examples=0)
    assert metrics == pytest.approx(evaluated[0])

    def rows(found):
        return sorted((p["system"], p["user_id"], p["target"], p["items"]) for p in found)

    assert rows(predictions) == rows(evaluated[1])


def test_other_semantic_ids_than_those_trained_on_are_refused(tmp_path, lists, recommender):
    inputs = make_inputs(tmp_path, lists, recommender)
    swapped = Recommender(
        recommender.model, VOCABULARY, recommender.text_codes_NL[::-1], recommender.image_codes_NL
    )
    other = folder(tmp_path / "other", [], lambda to: save_recommender(to, swapped))
    with pytest.raises(UserError, match="trained on other text codes"):
        run(tmp_path, spec.Inputs(**{**vars(inputs), "recommender": other}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion_weights": ()},
        {"fusion_weights": (1.5,)},
        {"neighbour_asymmetries": (0.5, 1.5)},
        {"similar_item_shares": ()},
        {"successor_shares": (0.3, -0.1)},
        {"top_k": 5},
        {"beams": 0},
        {"reciprocal_constant": -1},
    ],
)
def test_bad_config_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name}="):
        spec.Settings(**wrong)


def test_examples_are_half_hits():
    hits_T = np.array([0, 0, 1, 0, 0.5, 0, 1, 0])
    chosen = choose_users(hits_T, 4, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 4
    assert (hits_T[chosen] > 0).sum() >= 2
    assert len(choose_users(hits_T, 50, np.random.default_rng(0))) == 8


def test_pictures_that_cannot_be_shown_are_left_out(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    picture(root / "good.png")
    picture(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"0" * 100)
    (root / "text.jpg").write_text("no picture")
    (root / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Image.new("1", (12_000, 12_000)).save(root / "bomb.png")
    assert (thumbnail(root, "good.png") or "").startswith("data:image/jpeg;base64,")
    bad = ["link.png", "../outside.png", str(tmp_path / "outside.png"), "broken.jpg", "text.jpg"]
    for uri in [*bad, "page.svg", "bomb.png", "absent.png", "nul\0.png", "", "file:///etc/passwd"]:
        assert thumbnail(root, uri) is None, uri
