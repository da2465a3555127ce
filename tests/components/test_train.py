import dataclasses
import functools
import json
import logging
import math

import numpy as np
import pytest
import torch

from components.train import main as stage
from components.train.batches import IGNORED, NO_TASK, epoch_batches, make_batch, pair_batch
from components.train.losses import batch_loss, decode, implicit_loss, mean_pooled
from components.train.rows import TASKS, training_data, training_rows
from components.train.schedule import Schedule, decay_epochs
from components.train.training import Trainer, prepare
from components.train.validation import validation_split
from macrec import schema
from macrec.arrays import codes_column
from macrec.artifact import FolderOutput
from macrec.errors import UserError
from macrec.generator import (
    EOS,
    ITEM_TO_IMAGE,
    ITEM_TO_TEXT,
    MISSING,
    PAD,
    SEQUENCE_TO_IMAGE,
    SEQUENCE_TO_TEXT,
    ModelSize,
    Vocabulary,
    build_model,
    load_recommender,
)
from macrec.progress import Progress
from macrec.sequences import Sequences
from tests.artifacts import dataset

CPU = torch.device("cpu")
ITEMS, LEVELS, CODES = 12, 3, 4
VOCABULARY = Vocabulary(LEVELS, CODES)
SIZE = ModelSize(d_model=16, d_ff=32, d_kv=8, layers=2, heads=2, dropout=0.0)
SMALL = stage.Config(
    d_model=16,
    d_ff=32,
    d_kv=8,
    layers=1,
    heads=2,
    batch_size=8,
    item_pairs=4,
    epochs=2,
    warmup_steps=2,
    validate_every=1,
    validation_beams=4,
)


pytestmark = pytest.mark.usefixtures("one_thread")


def codes(seed, items=ITEMS, levels=LEVELS, size=CODES):
    """Distinct random codes of every item."""
    drawn = np.random.default_rng(seed).choice(size**levels, items, replace=False)
    return np.stack(np.unravel_index(drawn, (size,) * levels), axis=1).astype(np.int32)


def catalogue_codes(*without_image):
    text_NL, image_NL = codes(1), codes(2)
    image_NL[list(without_image)] = -1
    return text_NL, image_NL


def flat(*histories):
    offsets = np.cumsum([0, *map(len, histories)])
    return Sequences(np.array([i for h in histories for i in h], np.int32), offsets)


def random_sequences(users=40, seed=0, longest=15):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, longest, users)
    return flat(*(draw.integers(0, ITEMS, length).tolist() for length in lengths))


def data_of(sequences, item_codes, tasks=TASKS, **settings):
    options = {"max_history": 5, "augment": True, "use_pairs": True} | settings
    return training_data(VOCABULARY, sequences, item_codes, tasks, **options)


def small_model(seed=0, size=SIZE):
    torch.manual_seed(seed)
    return build_model(VOCABULARY, size)


def trainer(config=SMALL, score=lambda model: 0.0):
    prepare(config.seed, "cpu", 1)
    model = build_model(VOCABULARY, config.model_size)
    data = data_of(random_sequences(8), catalogue_codes(3), config.tasks)
    return Trainer(model, data, config, score, CPU)


# ---------------------------------------------------------------- rows


def test_rows_are_the_prefixes_of_the_training_items():
    sequences = flat([0, 1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 0], [1])
    first_R, target_R = training_rows(sequences, max_history=2, augment=True)
    rows = [sequences.items[a:b].tolist() for a, b in zip(first_R, target_R, strict=True)]
    assert rows == [[0], [0, 1], [1, 2], [9]]
    assert sequences.items[target_R].tolist() == [1, 2, 3, 10]
    first_R, target_R = training_rows(sequences, max_history=20, augment=False)
    rows = [sequences.items[a:b].tolist() for a, b in zip(first_R, target_R, strict=True)]
    assert rows == [[0, 1, 2], [9]]
    assert sequences.items[target_R].tolist() == [3, 10]


@pytest.mark.parametrize("augment", [True, False])
def test_validation_and_test_items_are_in_no_training_batch(augment):
    held_out = [10, 11]  # planted: the last two items of every user, and of nobody's history
    draw = np.random.default_rng(0)
    histories = [draw.integers(0, 10, draw.integers(0, 9)).tolist() for _ in range(50)]
    sequences = flat(*([*history, *held_out] for history in histories))
    data = data_of(sequences, catalogue_codes(), use_pairs=False, tasks=TASKS[:4], augment=augment)
    hidden = {
        modality: {tuple(row) for row in data.target_tokens_MNL[modality, held_out].tolist()}
        for modality in (0, 1)
    }
    rows = data.sequence_rows
    batch = make_batch(data, rows, np.arange(len(rows)))
    seen = {tuple(row) for row in batch.labels_BGL.reshape(-1, LEVELS).tolist()}
    for source_S in batch.source_BS:
        tokens = source_S[: np.flatnonzero(source_S == EOS)[0]]
        seen |= {tuple(row) for row in tokens.reshape(-1, LEVELS).tolist()}
    assert len(seen) > 10
    assert not seen & (hidden[0] | hidden[1])


def test_validation_predicts_the_last_item_but_one_from_all_before():
    sequences = flat([0, 1, 2, 3], [4, 5], [6, 7, 8])
    found = validation_split(sequences, users=0, seed=0)
    assert [history.tolist() for history in found.histories] == [[0, 1], [6]]
    assert found.targets_U.tolist() == [2, 7]
    many = random_sequences(200)
    sample = validation_split(many, users=20, seed=1)
    assert len(sample.histories) == 20
    again = validation_split(many, users=20, seed=1)
    assert sample.targets_U.tolist() == again.targets_U.tolist()


# ---------------------------------------------------------------- batches


def test_a_source_of_each_modality_has_both_targets_behind_their_task_tokens():
    item_codes = catalogue_codes(1, 3)
    sequences = flat([0, 1, 2, 5, 5], [4, 2, 3, 5, 5])
    data = data_of(sequences, item_codes)
    rows = data.sequence_rows
    batch = make_batch(data, rows, np.arange(len(rows)))
    text = VOCABULARY.tokens("text", item_codes[0]).tolist()
    with_image = np.flatnonzero(item_codes[1][:, 0] >= 0)
    image = dict(
        zip(
            with_image.tolist(),
            VOCABULARY.tokens("image", item_codes[1][with_image]).tolist(),
            strict=True,
        )
    )
    # rows: [0] -> 1, [0, 1] -> 2, [4] -> 2, [4, 2] -> 3 as text, then the same as image
    sources = [[token for token in row if token != PAD] for row in batch.source_BS.tolist()]
    assert sources[1] == [*text[0], *text[1], EOS]
    assert sources[5] == [*image[0], MISSING, EOS]  # item 1 has no picture
    for row in (1, 5):
        assert batch.decoder_BGL[row].tolist() == [
            [SEQUENCE_TO_TEXT, *text[2][:-1]],
            [SEQUENCE_TO_IMAGE, *image[2][:-1]],
        ]
        assert batch.labels_BGL[row].tolist() == [text[2], image[2]]
    for row in (0, 3, 4, 7):  # the target has no picture
        assert (batch.labels_BGL[row, 1] == IGNORED).all()
        assert batch.task_BG[row, 1] == NO_TASK
    names = [[TASKS[task] for task in row if task != NO_TASK] for row in batch.task_BG]
    assert names[1] == ["seq_text_text", "seq_text_image"]
    assert names[5] == ["seq_image_text", "seq_image_image"]


@pytest.mark.parametrize("task", TASKS[:4])
def test_one_task_has_its_rows_only(task):
    data = data_of(random_sequences(), catalogue_codes(3), (task,), use_pairs=False)
    rows = data.sequence_rows
    batch = make_batch(data, rows, np.arange(len(rows)))
    assert batch.decoder_BGL.shape[1] == 1
    assert {TASKS[t] for t in np.unique(batch.task_BG)} == {
        task
    }  # rows without picture are left out
    assert data.item_rows is None


def test_pairs_are_two_modalities_of_one_item():
    item_codes = catalogue_codes(0, 7)
    data = data_of(random_sequences(), item_codes)
    batch = pair_batch(data, 6, np.random.default_rng(0))
    assert batch.source_BS.shape == (12, LEVELS + 1)
    assert (batch.source_BS[:, -1] == EOS).all()
    by_text = {tuple(row): item for item, row in enumerate(item_codes[0].tolist())}
    by_image = {tuple(row): item for item, row in enumerate(item_codes[1].tolist())}
    text_NL = VOCABULARY.codes("text", batch.source_BS[:6, :-1]).tolist()
    image_NL = VOCABULARY.codes("image", batch.source_BS[6:, :-1]).tolist()
    items = [by_text[tuple(row)] for row in text_NL]
    assert items == [by_image[tuple(row)] for row in image_NL]
    assert len(set(items)) == 6 and not {0, 7} & set(items)
    np.testing.assert_array_equal(batch.labels_BGL[:6, 0], batch.source_BS[6:, :-1])
    np.testing.assert_array_equal(batch.labels_BGL[6:, 0], batch.source_BS[:6, :-1])
    assert (batch.decoder_BGL[:6, 0, 0] == ITEM_TO_IMAGE).all()
    assert (batch.decoder_BGL[6:, 0, 0] == ITEM_TO_TEXT).all()


def test_every_row_comes_once_per_epoch_with_little_padding():
    draw = np.random.default_rng(0)
    lengths_R = 1 + 4 * np.minimum(draw.geometric(0.2, 20_000), 20)
    batches = list(epoch_batches(lengths_R, 64, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(20_000))
    whole = sum(len(index) * lengths_R[index].max() for index in batches)
    assert 1 - lengths_R.sum() / whole < 0.1
    order = np.random.default_rng(1).permutation(20_000)
    unsorted = sum(64 * lengths_R[order[i : i + 64]].max() for i in range(0, 20_000, 64))
    assert 1 - lengths_R.sum() / unsorted > 0.5  # what the sorting is for
    other = list(epoch_batches(lengths_R, 64, np.random.default_rng(2)))
    assert not np.array_equal(batches[0], other[0])


def test_tasks_that_cannot_be_trained_are_named():
    no_image = (codes(1), np.full((ITEMS, LEVELS), -1, np.int32))
    with pytest.raises(
        UserError, match=r"row: seq_image_image, seq_text_image, item_.* 0 an image"
    ):
        data_of(random_sequences(), no_image)
    data = data_of(random_sequences(), no_image, ("seq_text_text",), use_pairs=False)
    assert len(data.sequence_rows) > 0
    with pytest.raises(UserError, match="no item pairs"):
        data_of(random_sequences(), no_image, ("seq_text_text",), use_pairs=True)


# ---------------------------------------------------------------- losses


def test_the_loss_is_that_of_stock_transformers_row_by_row():
    data = data_of(random_sequences(), catalogue_codes(3, 5))
    rows = data.sequence_rows
    batch = make_batch(data, rows, np.arange(0, len(rows), 7))
    model = small_model().double().eval()
    found = batch_loss(model, batch, 0.0, CPU)
    sums, tokens = np.zeros(len(TASKS)), np.zeros(len(TASKS))
    for row, source_S in enumerate(batch.source_BS):
        ids_1S = torch.from_numpy(source_S[source_S != PAD])[None]  # no padding at all
        for block, task in enumerate(batch.task_BG[row]):
            if task == NO_TASK:
                continue
            stock = model(
                input_ids=ids_1S,
                decoder_input_ids=torch.from_numpy(batch.decoder_BGL[row, block])[None],
                labels=torch.from_numpy(batch.labels_BGL[row, block])[None],
            )
            sums[task] += stock.loss.item() * LEVELS
            tokens[task] += LEVELS
    assert (tokens[:4] > 0).all()
    np.testing.assert_allclose(found.task_sum_T.numpy(), sums, rtol=1e-5)
    np.testing.assert_array_equal(found.task_tokens_T.numpy(), tokens)
    assert found.loss.item() == pytest.approx(sums.sum() / tokens.sum(), rel=1e-5)


def test_blocks_of_one_source_do_not_see_each_other():
    model = small_model().eval()
    draw = torch.Generator().manual_seed(0)
    source_BS = torch.randint(16, VOCABULARY.size, (2, 5), generator=draw)
    mask_BS = torch.ones_like(source_BS)
    decoder_BGL = torch.randint(16, VOCABULARY.size, (2, 2, LEVELS), generator=draw)
    changed_BGL = decoder_BGL.clone()
    changed_BGL[:, 0] = 17
    with torch.no_grad():
        encoded_BSD = model.encoder(input_ids=source_BS).last_hidden_state
        both = decode(model, encoded_BSD, mask_BS, decoder_BGL)
        alone = decode(model, encoded_BSD, mask_BS, decoder_BGL[:, 1:])
        other = decode(model, encoded_BSD, mask_BS, changed_BGL)
    torch.testing.assert_close(both[:, 1:], alone)
    torch.testing.assert_close(both[:, 1], other[:, 1])
    assert not torch.allclose(both[:, 0], other[:, 0])


def test_label_smoothing_is_that_of_torch():
    data = data_of(random_sequences(), catalogue_codes(3))
    batch = make_batch(data, data.sequence_rows, np.arange(6))
    model = small_model().eval()
    found = batch_loss(model, batch, 0.2, CPU)
    with torch.no_grad():
        decoder_BGL, labels_BGL = map(torch.from_numpy, (batch.decoder_BGL, batch.labels_BGL))
        logits = decode(model, found.encoded_BSD, found.mask_BS, decoder_BGL)
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 2), labels_BGL.flatten(), label_smoothing=0.2
        )
    torch.testing.assert_close(found.loss, expected)


def test_pooling_leaves_padding_out():
    encoded_BSD = torch.tensor([[[2.0], [4.0], [100.0]]])
    assert mean_pooled(encoded_BSD, torch.tensor([[1, 1, 0]])).item() == 3.0


def test_implicit_loss_has_both_directions_and_prefers_the_right_pairs():
    draw = torch.Generator().manual_seed(0)
    text_PD = torch.randn(5, 8, generator=draw, requires_grad=True)
    image_PD = torch.randn(5, 8, generator=draw, requires_grad=True)
    loss = implicit_loss(text_PD, image_PD, 0.1)
    t, v = (x.detach() / x.detach().norm(dim=1, keepdim=True) for x in (text_PD, image_PD))
    similarity = (t @ v.T / 0.1).double().exp()
    right = similarity.diagonal()
    forward, backward = (-(right / similarity.sum(dim)).log().mean() for dim in (1, 0))
    assert loss.item() == pytest.approx((forward + backward).item(), rel=1e-5)
    loss.backward()
    assert text_PD.grad.norm() > 1e-3 and image_PD.grad.norm() > 1e-3
    assert implicit_loss(t, t, 0.1) < 0.1 * implicit_loss(t, t.roll(1, 0), 0.1)


def test_implicit_alignment_reaches_the_tokens_of_both_modalities():
    data = data_of(random_sequences(), catalogue_codes(), ("seq_text_text",))
    model = small_model()
    batch = pair_batch(data, 4, np.random.default_rng(0))
    assert (batch.task_BG == NO_TASK).all()
    items = batch_loss(model, batch, 0.0, CPU)
    assert items.loss.item() == 0.0
    text_PD, image_PD = mean_pooled(items.encoded_BSD, items.mask_BS).chunk(2)
    implicit_loss(text_PD, image_PD, 0.1).backward()
    norm_V = model.shared.weight.grad.norm(dim=1)
    for source_BS in (batch.source_BS[:4, :-1], batch.source_BS[4:, :-1]):
        assert (norm_V[torch.from_numpy(source_BS)] > 1e-6).all()


# ---------------------------------------------------------------- the loop


def test_the_rate_warms_up_stays_and_decays_to_zero():
    schedule = Schedule(peak=1.0, warmup_steps=4)
    assert [schedule.rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    schedule.decay_start, schedule.decay_steps = 10, 9
    rates = [schedule.rate(step) for step in range(10, 20)]
    np.testing.assert_allclose(rates, np.linspace(0.9, 0.0, 10))
    assert [decay_epochs(0.25, n) for n in (1, 8, 9)] == [1, 2, 3]
    assert decay_epochs(0.0, 9) == 0


def test_stopping_starts_the_decay_from_the_best_weights_and_keeps_the_best():
    scores = iter([0.1, 0.5, 0.2, 0.4, 0.3, 0.45])  # best: epoch 2; patience 2: stop after 4
    states = []

    def score(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(scores)

    config = dataclasses.replace(SMALL, epochs=9, patience=2, decay=1.0)
    training = trainer(config, score)
    trained = training.train()
    assert (trained.best_epoch, trained.best_ndcg, trained.epochs) == (2, 0.5, 6)
    assert [row["validation_ndcg_at_10"] for row in trained.curve] == [
        0.1,
        0.5,
        0.2,
        0.4,
        0.3,
        0.45,
    ]
    for name, weight in training.state.model.state_dict().items():
        assert torch.equal(weight, states[1][name])
    rates = [row["learning_rate"] for row in trained.curve]
    assert rates[1] == rates[3] == config.learning_rate > rates[4] > rates[5]
    assert rates[5] < 0.1 * config.learning_rate  # it does decay, wherever training stops
    moved = [
        sum((states[k][n] - states[1][n]).abs().sum().item() for n in states[1]) for k in (3, 4)
    ]
    assert moved[1] < moved[0]  # epoch 5 started from epoch 2, not from epoch 4
    assert 0 <= trained.padding_share < 0.2
    assert trained.metrics()["rows_per_second"] > 0


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_it():
    training = trainer()
    good = {}

    def poison(*_):
        if training.state.step == 3:
            good.update({k: v.clone() for k, v in training.state.model.state_dict().items()})
            return torch.tensor(math.nan, requires_grad=True)
        return original(*_)

    original, training._loss = training._loss, poison
    with pytest.raises(UserError, match=r"step 3 \(epoch 1\): loss nan.*Lower learning_rate"):
        training.train()
    assert good
    for name, weight in training.state.model.state_dict().items():
        assert torch.equal(weight, good[name]) and weight.isfinite().all()


@functools.cache
def weights_after_an_epoch(config):
    training = trainer(config)
    training._epoch(Progress("test", 1))
    return torch.cat([weight.flatten() for weight in training.state.model.state_dict().values()])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_weight", 0.5),
        ("item_pairs", 5),
        ("implicit_weight", 0.5),
        ("implicit_temperature", 1.0),
        ("learning_rate", 1e-2),
        ("weight_decay", 0.5),
        ("clip_norm", 1e-6),
        ("warmup_steps", 0),
        ("label_smoothing", 0.5),
        ("dropout", 0.5),
        ("batch_size", 9),
        ("seed", 1),
        ("tasks", TASKS[:4]),
    ],
)
def test_every_setting_reaches_the_computation(field, value):
    changed = dataclasses.replace(SMALL, **{field: value})
    assert not torch.equal(weights_after_an_epoch(SMALL), weights_after_an_epoch(changed))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("seq_text_txt",)}, "tasks names seq_text_txt"),
        ({"tasks": ("item_text_image",)}, "no sequence task"),
        ({"epochs": 0, "dropout": 1.5}, "epochs is below 1; dropout is outside 0..1"),
        ({"learning_rate": math.nan}, "learning_rate is not above 0"),
        ({"item_pairs": 1}, "item_pairs is below 2"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        stage.Config(**settings)


# ---------------------------------------------------------------- the stage


def stage_inputs(folder, histories, item_codes):
    items = len(item_codes[0])
    moved = np.full(items, -1, np.int8)
    semantic_ids = {
        "item_index": np.arange(items, dtype=np.int32),
        "item_id": [f"i{k}" for k in range(items)],
        "text_codes": codes_column(item_codes[0]),
        "image_codes": codes_column(item_codes[1]),
        "text_moved": moved,
        "image_moved": moved,
    }
    sequences = {
        "user_id": [f"u{k}" for k in range(len(histories))],
        "item_index": histories,
        "timestamp": [None] * len(histories),
    }
    return stage.Inputs(
        sequences=dataset(folder / "sequences", schema.SEQUENCES, sequences),
        semantic_ids=dataset(
            folder / "semantic_ids", schema.SEMANTIC_IDS, semantic_ids, codebook_size=CODES
        ),
    )


def run_stage(folder, config, inputs):
    output = FolderOutput(folder)
    output.prepare()
    execution = stage.Execution(device="cpu", threads=1)
    metrics = stage.run(config, inputs, stage.Outputs(recommender=output), execution)
    return metrics, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def planted_histories(users, seed=0):
    """The next item is always the last one plus 5 (mod 12), one cycle through all items."""
    starts = np.random.default_rng(seed).integers(0, ITEMS, users)
    return [[int(start + 5 * step) % ITEMS for step in range(7)] for start in starts]


def test_a_planted_rule_is_learned_and_saved(tmp_path):
    inputs = stage_inputs(tmp_path, planted_histories(60), catalogue_codes(3))
    config = dataclasses.replace(
        SMALL,
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
    with pytest.raises(UserError, match=r"2 of 8 interactions name items outside 0\.\.11"):
        run_stage(tmp_path / "recommender", SMALL, inputs)
