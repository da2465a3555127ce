"""Rows, batches and history dropout."""

import numpy as np
import pytest

from components.train.batches import IGNORED, NO_TASK, epoch_batches, make_batch, pair_batch
from components.train.generator_validation import validation_split
from components.train.history_dropout import draw_dropped, thinned_lengths, thinned_sources
from components.train.rows import TASKS, training_rows
from macrec.core.errors import UserError
from macrec.generator.tokens import (
    EOS,
    ITEM_TO_IMAGE,
    ITEM_TO_TEXT,
    MISSING,
    PAD,
    SEQUENCE_TO_IMAGE,
    SEQUENCE_TO_TEXT,
)
from tests.small_generator import (
    ITEMS,
    LEVELS,
    VOCABULARY,
    catalogue_codes,
    codes,
    data_of,
    flat,
    random_sequences,
)

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
    found = validation_split(sequences, users=0, seed=0, seen_items="auto")
    assert [history.tolist() for history in found.histories] == [[0, 1], [6]]
    assert found.targets_U.tolist() == [2, 7] and found.drop_seen
    assert not validation_split(sequences, 0, 0, "keep").drop_seen
    many = random_sequences(200)
    sample = validation_split(many, users=20, seed=1, seen_items="auto")
    assert len(sample.histories) == 20
    again = validation_split(many, users=20, seed=1, seen_items="auto")
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


def test_target_tokens_are_the_labels_of_the_batch():
    data = data_of(random_sequences(), catalogue_codes(3, 5))
    for rows in (data.sequence_rows, data.item_rows):
        index_B = np.arange(0, len(rows), 3)
        labels_BGL = make_batch(data, rows, index_B).labels_BGL
        assert data.target_tokens(rows, index_B) == (labels_BGL != IGNORED).sum() > 0
    data = data_of(random_sequences(), catalogue_codes(3), TASKS[:4])
    assert data.target_tokens(data.item_rows, np.arange(5)) == 0


# ---------------------------------------------------------------- history dropout


def expected_source(item_codes, history, modality):
    """The source of a history, token by token."""
    tokens = []
    for item in history:
        codes_L = item_codes[modality][item]
        if codes_L[0] < 0:
            tokens.append(MISSING)
        else:
            name = ("text", "image")[modality]
            tokens += VOCABULARY.tokens(name, codes_L[None]).tolist()[0]
    return [*tokens, EOS]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_dropped_items_and_they_alone_are_absent_from_the_sources(share):
    item_codes, sequences = catalogue_codes(1, 3, 8), random_sequences(20)
    data = data_of(sequences, item_codes, use_pairs=False, tasks=TASKS[:4])
    rows = data.sequence_rows
    dropped_RH = draw_dropped(rows, share, np.random.default_rng(0))
    index_B = np.random.default_rng(1).permutation(len(rows))[:40]
    spans = rows.first_R[index_B], rows.last_R[index_B]
    source_BS = thinned_sources(data.stream, *spans, dropped_RH[index_B])
    assert (source_BS != PAD).any(axis=0).all()  # no column of padding alone
    fewer = 0
    for source_S, row in zip(source_BS.tolist(), index_B, strict=True):
        modality = int(rows.modality_R[row])
        shift = modality * len(sequences.items)
        history = sequences.items[rows.first_R[row] - shift : rows.last_R[row] - shift].tolist()
        kept = [
            item
            for place, item in enumerate(reversed(history))
            if place == 0 or not dropped_RH[row, place - 1]
        ][::-1]
        assert [token for token in source_S if token != PAD] == expected_source(
            item_codes, kept, modality
        )
        fewer += len(history) - len(kept)
    assert (fewer > 0) == (share > 0)
    lengths_R = thinned_lengths(data, rows, dropped_RH)
    np.testing.assert_array_equal((source_BS != PAD).sum(axis=1), lengths_R[index_B])


def test_the_dropped_share_is_that_of_the_setting_at_every_place(monkeypatch):
    monkeypatch.setattr("components.train.history_dropout.ROWS_AT_ONCE", 1000)
    rows = data_of(random_sequences(3000, longest=12), catalogue_codes(), max_history=8)
    dropped_RH = draw_dropped(rows.sequence_rows, 0.25, np.random.default_rng(0))
    assert dropped_RH.shape == (len(rows.sequence_rows), 7)
    assert np.abs(dropped_RH.mean(axis=0) - 0.25).max() < 0.01
    assert np.abs(dropped_RH[:1000].mean() - dropped_RH[1000:].mean()) < 0.01
    assert not np.array_equal(dropped_RH[:1000], dropped_RH[1000:2000])
