"""The course of the training, its settings, and the stage."""

import dataclasses
import functools
import json
import logging
import math

import numpy as np
import pytest
import torch

from components.train import generator_trainer, generator_training, spec, stage
from components.train.learning_rate import Schedule, decay_epochs
from components.train.rows import TASKS
from macrec.compute.precision import low_precision
from macrec.core.errors import UserError
from macrec.core.fingerprint import sources
from macrec.generator.model import build_model, load_recommender
from macrec.generator.t5 import read_weights
from macrec.generator.tokens import PAD
from tests.small_generator import (
    CPU,
    ITEMS,
    LEVELS,
    SMALL,
    VOCABULARY,
    catalogue_codes,
    codes,
    data_of,
    planted_histories,
    random_sequences,
    run_stage,
    stage_inputs,
    train_small,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_rate_warms_up_stays_and_decays_to_zero():
    schedule = Schedule(peak=1.0, warmup_steps=4)
    assert [schedule.rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    schedule.decay_start, schedule.decay_steps = 10, 9
    rates = [schedule.rate(step) for step in range(10, 20)]
    np.testing.assert_allclose(rates, np.linspace(0.9, 0.0, 10))
    assert [decay_epochs(0.25, n) for n in (1, 8, 9)] == [1, 2, 3]
    assert decay_epochs(0.0, 9) == 0


def recording(values):
    """A score that gives the values in turn, and the weights that it was asked about."""
    scores, asked = iter(values), []

    def score(model):
        asked.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(scores)

    return score, asked


def distance(one, other):
    return sum((one[name] - other[name]).abs().sum().item() for name in one)


def test_stopping_starts_the_decay_from_the_best_weights_and_keeps_the_best():
    values = [0.1, 0.5, 0.2, 0.4, 0.3, 0.45]  # best: epoch 2; patience 2: stop after 4
    score, asked = recording(values)
    config = dataclasses.replace(SMALL, epochs=9, patience=2, decay=1.0)
    model, trained = train_small(config, score)
    assert (trained.best_epoch, trained.best_ndcg, trained.epochs) == (2, 0.5, 6)
    assert [row["validation_ndcg_at_10"] for row in trained.curve] == values
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, asked[1][name])
    rates = [row["learning_rate"] for row in trained.curve]
    assert rates[1] == rates[3] == config.learning_rate > rates[4] > rates[5]
    assert rates[5] < 0.1 * config.learning_rate  # it does decay, wherever training stops
    # epoch 5 started from epoch 2, not from epoch 4
    assert distance(asked[4], asked[1]) < distance(asked[3], asked[1])
    assert 0 <= trained.padding_share < 0.2
    assert trained.metrics()["rows_per_second"] > 0


def test_the_decay_starts_with_the_moments_of_the_best_weights(monkeypatch):
    """Undisturbed by the epochs in between: as if the training had stopped at the best."""
    config = dataclasses.replace(SMALL, dropout=0.0, patience=1, decay=0.5)
    monkeypatch.setattr(generator_trainer, "generator", lambda *_: np.random.default_rng(0))
    score, stopped_late = recording([0.5, 0.1, 0.6])
    train_small(dataclasses.replace(config, epochs=5), score)
    score, stopped_at_once = recording([0.5, 0.6])
    train_small(dataclasses.replace(config, epochs=1), score)
    assert distance(stopped_late[0], stopped_at_once[0]) == 0
    assert distance(stopped_late[1], stopped_at_once[1]) > 0
    assert distance(stopped_late[2], stopped_at_once[1]) == 0


def test_without_a_decay_the_training_ends_where_it_stops():
    score, asked = recording([0.1, 0.5, 0.2])
    model, trained = train_small(dataclasses.replace(SMALL, epochs=3, decay=0.0), score)
    assert trained.epochs == 3
    assert all(torch.equal(w, asked[1][name]) for name, w in model.state_dict().items())


@pytest.mark.case(36)
def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_it(monkeypatch):
    good, models = {}, []

    def poison(self, index_B, weights):
        if self.state.step == 3:
            models.append(self.state.model)
            good.update({k: v.clone() for k, v in self.state.model.state_dict().items()})
            loss, figures_F = original(self, index_B, weights)
            return loss * math.nan, figures_F * math.nan
        return original(self, index_B, weights)

    original = generator_trainer.Trainer._loss
    monkeypatch.setattr(generator_trainer.Trainer, "_loss", poison)
    with pytest.raises(UserError, match=r"step 3 \(epoch 1\): loss nan.*Lower learning_rate"):
        train_small()
    assert good
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, good[name]) and weight.isfinite().all()


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_gpu"),
    [("auto", False, True), ("bfloat16", True, True), ("float32", False, False)],
)
def test_precision_is_that_of_the_setting_on_either_device(
    precision, on_cpu, on_gpu, slow_bfloat16
):
    config = dataclasses.replace(SMALL, precision=precision, decay=0.0, epochs=1)
    assert [low_precision(config.precision, device) for device in ("cpu", "cuda")] == [
        on_cpu,
        on_gpu,
    ]
    model, _ = train_small(config)
    assert slow_bfloat16() == on_cpu
    exact, _ = train_small(dataclasses.replace(config, precision="float32"))
    pairs = list(zip(model.parameters(), exact.parameters(), strict=True))
    assert all(weight.dtype == torch.float32 for weight, _ in pairs)
    assert all(torch.equal(*pair) for pair in pairs) != on_cpu


# ---------------------------------------------------------------- averages and history dropout


def test_the_average_of_the_weights_is_validated_decayed_from_and_saved(monkeypatch):
    """Against sums written down here, step by step."""
    config = dataclasses.replace(SMALL, average_decay=0.6, epochs=2, decay=0.5)
    kept, average, step = [], {}, generator_trainer.Trainer.step

    def watched(self, index_B):
        weights = self.state.weights()
        if not average:
            average.update({name: weight.clone() for name, weight in weights.items()})
        if self.state.decaying and len(kept) == 2:  # back where epoch 1 had ended
            average.update(kept[0][1])
            assert all(torch.equal(w, kept[0][0][name]) for name, w in weights.items())
            kept.append(None)
        loss = step(self, index_B)
        decay = min(0.6, (1 + self.state.step) / (10 + self.state.step))
        for name, weight in weights.items():
            average[name] = decay * average[name] + (1 - decay) * weight
        return loss

    def score(model):
        shown = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for name, expected in average.items():
            torch.testing.assert_close(shown[name], expected, rtol=1e-5, atol=1e-7)
        kept.append((trained_weights[-1], shown))
        return [0.5, 0.2, 0.0, 0.6][len(kept) - 1]

    trained_weights, validate = [], generator_training._validate

    def validated(state, measure):
        trained_weights.append({n: w.clone() for n, w in state.weights().items()})
        found = validate(state, measure)  # which leaves the weights themselves as they were
        assert all(torch.equal(w, trained_weights[-1][n]) for n, w in state.weights().items())
        return found

    monkeypatch.setattr(generator_trainer.Trainer, "step", watched)
    monkeypatch.setattr(generator_training, "_validate", validated)
    model, trained = train_small(config, score)
    assert trained.best_ndcg == 0.6 and trained.epochs == 3
    raw, shown = kept[-1]
    for name, weight in model.named_parameters():
        assert torch.equal(weight, shown[name])
    assert distance(raw, shown) > 1e-3


def test_history_dropout_thins_the_batches_anew_in_every_epoch(monkeypatch):
    seen, original = [], generator_trainer.batch_loss

    def watched(weights, batch, *settings):
        if batch.decoder_BGL.shape[1] == 2:  # sequences; an item has one target
            seen.append(batch)
        return original(weights, batch, *settings)

    monkeypatch.setattr(generator_trainer, "batch_loss", watched)
    tokens = {}
    for share in (0.0, 0.5):
        seen.clear()
        _, trained = train_small(dataclasses.replace(SMALL, history_dropout=share, decay=0.0))
        half = len(seen) // 2
        tokens[share] = [
            sum(int((batch.source_BS != PAD).sum()) for batch in part)
            for part in (seen[:half], seen[half:])
        ]
        padded = sum(batch.source_BS.size for batch in seen)
        assert trained.padding_share == pytest.approx(1 - sum(tokens[share]) / padded)
    assert tokens[0.0][0] == tokens[0.0][1]
    assert tokens[0.5][0] != tokens[0.5][1]
    assert max(tokens[0.5]) < 0.85 * tokens[0.0][0]  # no row loses its last item


# ---------------------------------------------------------------- settings


@functools.cache
def weights_after_an_epoch(config):
    score, asked = recording([0.5])
    train_small(dataclasses.replace(config, epochs=1, decay=0.0), score)
    return torch.cat([weight.flatten() for weight in asked[0].values()])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_weight", 0.5),
        ("item_pairs", 5),
        ("implicit_weight", 0.5),
        ("implicit_temperature", 1.0),
        ("learning_rate", 1e-2),
        ("embedding_rate", 1.0),
        ("source", "items"),
        ("weight_decay", 0.5),
        ("clip_norm", 1e-6),
        ("warmup_steps", 0),
        ("label_smoothing", 0.5),
        ("history_dropout", 0.5),
        ("average_decay", 0.5),
        ("dropout", 0.5),
        ("batch_size", 9),
        ("seed", 1),
        ("tasks", TASKS[:4]),
    ],
)
def test_every_setting_reaches_the_computation(field, value):
    changed = dataclasses.replace(SMALL, **{field: value})
    assert not torch.equal(weights_after_an_epoch(SMALL), weights_after_an_epoch(changed))


def test_embeddings_move_by_their_own_rate():
    """AdamW's first step moves a weight by the rate, whatever its gradient."""
    config = dataclasses.replace(
        SMALL, embedding_rate=5.0, weight_decay=0.0, warmup_steps=0, clip_norm=1e9
    )
    generator_training.prepare(0, "cpu", 1)
    model = build_model(VOCABULARY, config.model_size)
    data = data_of(random_sequences(8), catalogue_codes(3))
    steps = generator_trainer.Trainer(model, data, config, CPU)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    steps.step(np.arange(8))
    for name, weight in model.named_parameters():
        moved = (weight.detach() - before[name]).abs().max().item()
        factor = 5.0 if name == "shared.weight" else 1.0
        assert moved == pytest.approx(factor * config.learning_rate, rel=1e-2), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("seq_text_txt",)}, "tasks='seq_text_txt'"),
        ({"tasks": ("item_text_image",)}, "tasks needs at least one"),
        ({"epochs": 0, "dropout": 1.5}, "dropout=1.5.*epochs=0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"item_pairs": 1}, "item_pairs=1"),
        (
            {"history_dropout": 1.0, "average_decay": -0.1},
            r"history_dropout=1.0.*average_decay=-0.1",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        spec.Settings(**settings)


# ---------------------------------------------------------------- the stage


@pytest.mark.parametrize(
    ("encoder", "source"),
    [("full", "tokens"), ("causal", "tokens"), ("full", "items"), ("causal", "items")],
)
def test_a_planted_rule_is_learned_and_saved(tmp_path, monkeypatch, encoder, source):
    made, make = [], stage.training_data
    keep = lambda *given, **named: made.append(make(*given, **named)) or made[-1]  # noqa: E731
    monkeypatch.setattr(stage, "training_data", keep)
    inputs = stage_inputs(tmp_path, planted_histories(60), catalogue_codes(3))
    config = dataclasses.replace(
        SMALL,
        encoder=encoder,
        source=source,
        d_model=32,
        d_ff=64,
        d_kv=16,
        dropout=0.0,
        max_history=3,
        learning_rate=5e-3,
        batch_size=16,
        epochs=6,
        validate_every=3,
    )
    metrics, files = run_stage(tmp_path / "recommender", config, inputs)
    assert metrics["validation_ndcg_at_10"] > 0.95  # a random order of 12 items reaches 0.38
    assert metrics["loss_seq_text_text"] < 0.5  # untrained: log 40 = 3.7
    assert all(math.isfinite(value) for value in metrics.values())
    recommender = load_recommender(tmp_path / "recommender")
    np.testing.assert_array_equal(recommender.image_codes_NL, catalogue_codes(3)[1])
    tokens_K = np.diff(made[0].stream.offsets)  # item 3 has no picture
    assert (tokens_K == LEVELS).all() == (source == "items")
    weights = read_weights(recommender.model)
    assert weights.causal_encoder == (encoder == "causal")
    assert weights.tokens_per_position == (LEVELS if source == "items" else 1)
    curve = json.loads(files["history.json"])
    assert curve[-1]["step"] == metrics["steps"]
    assert set(curve[0]["losses"]) == {*TASKS, "implicit"}
    measured = [row["validation_ndcg_at_10"] for row in curve]
    assert max(filter(None, measured)) == metrics["validation_ndcg_at_10"]
    assert measured[0] is None  # validated every third epoch


def test_same_seed_same_bytes(tmp_path):
    inputs = stage_inputs(tmp_path, planted_histories(20), catalogue_codes(3))
    config = dataclasses.replace(SMALL, epochs=1)
    _, first = run_stage(tmp_path / "a", config, inputs)
    _, second = run_stage(tmp_path / "b", config, inputs)
    assert first == second and "model.safetensors" in first
    _, other = run_stage(tmp_path / "c", dataclasses.replace(config, seed=1), inputs)
    assert other["model.safetensors"] != first["model.safetensors"]


def only(modality):
    nothing = np.full((ITEMS, LEVELS), -1, np.int32)
    return (codes(1), nothing) if modality == "text" else (nothing, codes(1))


@pytest.mark.parametrize(("present", "absent"), [("text", "image"), ("image", "text")])
def test_one_modality_alone_is_trained_on_its_own_task(tmp_path, caplog, present, absent):
    inputs = stage_inputs(tmp_path, planted_histories(20), only(present))
    config = dataclasses.replace(SMALL, epochs=1)  # of all tasks
    task = f"seq_{present}_{present}"
    with caplog.at_level(logging.INFO, "macrec"):
        metrics, files = run_stage(tmp_path / "a", config, inputs)
    assert {name for name in metrics if name.startswith("loss_")} == {f"loss_{task}"}
    told = next(line for line in caplog.messages if f"no item has {absent} codes" in line)
    assert [name for name in TASKS if name not in told] == [task]
    assert "implicit alignment" in told
    assert load_recommender(tmp_path / "a").modalities == (present,)
    alone = dataclasses.replace(config, tasks=(task,), implicit_weight=0.0)
    caplog.clear()
    _, same = run_stage(tmp_path / "b", alone, inputs)
    assert same == files and "no item has" not in caplog.text


def test_tasks_of_the_absent_modality_alone_are_refused(tmp_path):
    inputs = stage_inputs(tmp_path, planted_histories(20), only("text"))
    tasks = ("seq_text_image", "seq_image_text", "item_text_image")
    config = dataclasses.replace(SMALL, tasks=tasks)
    with pytest.raises(UserError, match=r"no item has image codes.*Add seq_text_text"):
        run_stage(tmp_path / "recommender", config, inputs)


def test_items_that_have_no_semantic_id_are_counted(tmp_path):
    histories = [[0, 1, 2, 3], [0, 12, 13, 1]]
    inputs = stage_inputs(tmp_path, histories, catalogue_codes())
    with pytest.raises(UserError, match=r"2 of 8 interactions refer to items outside 0\.\.11"):
        run_stage(tmp_path / "recommender", SMALL, inputs)


def test_how_neighbours_are_counted_is_no_part_of_a_training():
    trained = sources("components.train.stage", spec.unused_imports(spec.Settings()))
    evaluated = sources("components.evaluate.stage")
    assert "macrec.ranking.ranker" in trained and "macrec.ranking.neighbours" not in trained
    assert "macrec.ranking.neighbours" in evaluated
