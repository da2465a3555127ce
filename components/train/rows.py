"""Builds the training rows of the tasks as flat arrays, without Python code per row.

Shapes: N items, L levels, U users, R rows, M modalities as sources or targets, P item pairs, or
positions of a history that are predicted, G targets of a position (one decoder block each).

A source is a slice of one flat token stream. The stream contains all interactions as text, then all
interactions as image, every item as text, and every item as image. A training row therefore is a
few integers, however long its history is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.train.spec import TASKS
from macrec.core.errors import UserError
from macrec.data.sequences import Sequences
from macrec.generator.tokens import (
    ITEM_TASK,
    MODALITIES,
    PAD,
    SEQUENCE_TASK,
    Int32Array,
    Int64Array,
    Modality,
    Position,
    TokenStream,
    Vocabulary,
    has_code,
    source_lengths,
    token_stream,
)


def training_rows(
    sequences: Sequences, max_history: int, augment: bool
) -> tuple[Int64Array, Int64Array]:
    """Return the first interaction and the target interaction of every training row, [R] each.

    The history of a row is the interactions first..target-1. The last two interactions of each user
    (validation and test targets) are in no row. With `augment` each item after the first is a
    target, else only the last training item is.
    """
    start_U = sequences.offsets[:-1]
    end_U = np.maximum(sequences.offsets[1:] - 2, start_U)
    rows_U = np.maximum(end_U - start_U - 1, 0)
    if not augment:
        user = np.flatnonzero(rows_U)
        start_R, target_R = start_U[user], end_U[user] - 1
    else:
        start_R = np.repeat(start_U, rows_U)
        within_R = np.arange(rows_U.sum()) - np.repeat(np.cumsum(rows_U) - rows_U, rows_U)
        target_R = start_R + 1 + within_R
    return np.maximum(start_R, target_R - max_history), target_R


class Windows(NamedTuple):
    """Histories that are read once for several targets.

    The interactions first..last-1 are the source. The `count` last of first+1..last are predicted,
    each from those before it.
    """

    first_R: Int64Array
    last_R: Int64Array
    count_R: Int64Array


def training_windows(sequences: Sequences, max_history: int) -> Windows:
    """Cover every target of `training_rows` once, with as few sources as the history length allows.

    A user's first window contains the first `max_history` targets. The windows after it advance by
    half of that, so that a target has at least half a window before it.
    """
    start_U = sequences.offsets[:-1]
    targets_U = np.maximum(sequences.offsets[1:] - 2 - start_U - 1, 0)
    step = max(max_history // 2, 1)
    windows_U = (targets_U > 0) - (-np.maximum(targets_U - max_history, 0) // step)
    user_R = np.repeat(np.arange(len(start_U)), windows_U)
    number_R = np.arange(len(user_R)) - np.repeat(np.cumsum(windows_U) - windows_U, windows_U)
    end_R = np.minimum(max_history + number_R * step, targets_U[user_R])
    done_R = np.where(number_R > 0, max_history + (number_R - 1) * step, 0)
    last_R = start_U[user_R] + end_R
    first_R = np.maximum(start_U[user_R], last_R - max_history)
    return Windows(first_R, last_R, end_R - done_R)


class TargetTable(NamedTuple):
    """Lists, per kind of task, what a source of modality s decodes in block g; -1 is nothing."""

    target_SG: Int64Array  # modality index
    start_SG: Int64Array  # task token
    task_SG: Int64Array  # position in TASKS


def target_table(kind: str, tasks: Sequence[str]) -> TargetTable | None:
    """Return the targets of each source modality among `tasks` of one kind ("seq" or "item")."""
    starts = SEQUENCE_TASK if kind == "seq" else ITEM_TASK
    wanted: list[list[Modality]] = [
        [target for target in MODALITIES if f"{kind}_{source}_{target}" in tasks]
        for source in MODALITIES
    ]
    blocks = max(map(len, wanted))
    if blocks == 0:
        return None
    table = TargetTable(*(np.full((len(MODALITIES), blocks), -1) for _ in range(3)))
    for source, targets in enumerate(wanted):
        for block, target in enumerate(targets):
            table.target_SG[source, block] = MODALITIES.index(target)
            table.start_SG[source, block] = starts[target]
            name = f"{kind}_{MODALITIES[source]}_{target}"
            table.task_SG[source, block] = TASKS.index(name)
    return table


@dataclass(frozen=True)
class Rows:
    """Training rows: slices of the token stream, their modality, and the items to predict."""

    first_R: Int64Array
    last_R: Int64Array
    modality_R: npt.NDArray[np.int8]
    items: Int32Array
    place_R: Int64Array
    """Position in `items` of the first item to predict."""
    count_R: Int64Array
    """Number of items to predict. The last is predicted from the whole slice, each earlier one from
    one interaction less."""
    table: TargetTable

    def __len__(self) -> int:
        return len(self.first_R)

    def targets(self, index_B: Int64Array) -> Int32Array:
        """Return the items to predict [B, P]; -1 where a row has fewer than others."""
        count_B = self.count_R[index_B]
        step_P = np.arange(int(count_B.max(initial=1)))
        item_BP = self.items.take(self.place_R[index_B][:, None] + step_P, mode="clip")
        item_BP[step_P >= count_B[:, None]] = -1
        return item_BP

    def target_modalities(self, index_B: Int64Array, item_BP: Int32Array) -> Int64Array:
        """Return the modality index [B, P, G] decoded for each item to predict; -1 is nothing."""
        target_BPG = self.table.target_SG[self.modality_R[index_B]][:, None]
        return np.where(item_BP[:, :, None] >= 0, target_BPG, -1)


@dataclass(frozen=True)
class TrainingData:
    """Contains everything that batches are built from."""

    stream: TokenStream
    target_tokens_MNL: Int64Array  # M modalities; PAD where the item has no code
    sequence_rows: Rows | None
    item_rows: Rows | None  # row k < P is item pair k as text, row P + k the same pair as image
    paired_items_P: Int64Array

    def lengths(self, rows: Rows) -> Int64Array:
        """Return the source length [R] of every row, EOS included."""
        return source_lengths(self.stream, rows.first_R, rows.last_R)

    def target_tokens(self, rows: Rows, index_B: Int64Array) -> int:
        """Return the number of target tokens of the rows `index_B`, over all their targets."""
        item_BP = rows.targets(index_B)
        target_BPG = rows.target_modalities(index_B, item_BP)
        first_BPG = self.target_tokens_MNL[target_BPG, item_BP[:, :, None], 0]
        present_BPG = (target_BPG >= 0) & (first_BPG != PAD)
        return int(present_BPG.sum()) * self.target_tokens_MNL.shape[2]


def _sequence_rows(
    sequences: Sequences,
    tasks: Sequence[str],
    coded_MN: npt.NDArray[np.bool_],
    max_history: int,
    augment: bool,
    windows: bool,
) -> Rows | None:
    table = target_table("seq", tasks)
    if table is None:
        return None
    if windows:
        found = training_windows(sequences, max_history)
    else:
        first_R, target_R = training_rows(sequences, max_history, augment)
        found = Windows(first_R, target_R, np.ones_like(first_R))
    sources, modality_count = len(found.first_R), len(MODALITIES)
    # In the stream, image sources follow the text sources at a distance of one set of interactions.
    shift_R = np.repeat(np.arange(modality_count) * len(sequences.items), sources)
    first_R, last_R, count_R = (np.tile(column, modality_count) for column in found)
    rows = Rows(
        first_R + shift_R,
        last_R + shift_R,
        np.repeat(np.arange(modality_count, dtype=np.int8), sources),
        sequences.items,
        last_R - count_R + 1,
        count_R,
        table,
    )
    kept = _existing_targets(rows, coded_MN).any(axis=(1, 2))
    columns = ("first_R", "last_R", "modality_R", "place_R", "count_R")
    return replace(rows, **{name: getattr(rows, name)[kept] for name in columns})


def _existing_targets(rows: Rows, coded_MN: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which targets [R, P, G] exist and have a code."""
    everything_R = np.arange(len(rows))
    item_RP = rows.targets(everything_R)
    target_RPG = rows.target_modalities(everything_R, item_RP)
    return (target_RPG >= 0) & coded_MN[target_RPG, item_RP[:, :, None]]


def _item_rows(interactions: int, items: int, tasks: Sequence[str], paired_P: Int64Array) -> Rows:
    table = target_table("item", tasks)
    if table is None:  # pairs for the implicit alignment only: sources without a target
        table = TargetTable(*(np.full((len(MODALITIES), 1), -1) for _ in range(3)))
    start_M = len(MODALITIES) * interactions + np.arange(len(MODALITIES)) * items
    first_R = (start_M[:, None] + paired_P).ravel()
    modality_R = np.repeat(np.arange(len(MODALITIES), dtype=np.int8), len(paired_P))
    place_R = np.tile(np.arange(len(paired_P)), len(MODALITIES))
    count_R, paired = np.ones_like(place_R), paired_P.astype(np.int32)
    return Rows(first_R, first_R + 1, modality_R, paired, place_R, count_R, table)


def training_data(
    vocabulary: Vocabulary,
    sequences: Sequences,
    codes_MNL: tuple[Int32Array, Int32Array],
    tasks: Sequence[str],
    *,
    max_history: int,
    augment: bool,
    use_pairs: bool,
    windows: bool = False,
    source: Position = "tokens",
) -> TrainingData:
    """Return the token stream and the rows of the tasks.

    `codes_MNL` are the text codes and the image codes. With `windows` a source has all its targets,
    which needs an encoder that does not look ahead. `source` is what an encoder position is.

    Raises UserError if a task has no row.
    """
    items = len(codes_MNL[0])
    coded_MN = np.stack([has_code(codes_NL) for codes_NL in codes_MNL])
    target_tokens_MNL = np.full((len(MODALITIES), items, vocabulary.levels), PAD, np.int64)
    streams: list[TokenStream] = []
    for index, modality in enumerate(MODALITIES):
        codes_NL, coded_N = codes_MNL[index], coded_MN[index]
        target_tokens_MNL[index, coded_N] = vocabulary.tokens(modality, codes_NL[coded_N])
        streams.append(token_stream(vocabulary, modality, codes_NL, sequences.items, source))
    for modality, codes_NL in zip(MODALITIES, codes_MNL, strict=True):
        streams.append(token_stream(vocabulary, modality, codes_NL, np.arange(items), source))
    paired_P = np.flatnonzero(coded_MN.all(axis=0))
    data = TrainingData(
        _join_streams(streams),
        target_tokens_MNL,
        _sequence_rows(sequences, tasks, coded_MN, max_history, augment, windows),
        _item_rows(len(sequences.items), items, tasks, paired_P) if use_pairs else None,
        paired_P,
    )
    _check_tasks(data, tasks, coded_MN)
    return data


def _join_streams(streams: list[TokenStream]) -> TokenStream:
    """Join streams; interaction k of stream s becomes interaction k + (interactions before s)."""
    offsets, total = [np.zeros(1, np.int64)], 0
    for stream in streams:
        offsets.append(stream.offsets[1:] + total)
        total += len(stream.tokens)
    return TokenStream(np.concatenate([s.tokens for s in streams]), np.concatenate(offsets))


def _check_tasks(data: TrainingData, tasks: Sequence[str], coded_MN: npt.NDArray[np.bool_]) -> None:
    with_text, with_image = coded_MN.sum(axis=1).tolist()
    seen: set[int] = set()
    if data.sequence_rows is not None:
        rows = data.sequence_rows
        valid_RG = _existing_targets(rows, coded_MN).any(axis=1)
        seen |= set(np.unique(rows.table.task_SG[rows.modality_R][valid_RG]).tolist())
    if data.item_rows is not None and len(data.paired_items_P) > 1:
        seen |= {TASKS.index(task) for task in tasks if task.startswith("item_")}
    empty = [task for task in tasks if TASKS.index(task) not in seen]
    if empty or (data.item_rows is not None and len(data.paired_items_P) < 2):
        what = f"tasks without a training row: {', '.join(empty)}" if empty else "no item pairs"
        raise UserError(
            f"semantic_ids, sequences: {what}. {with_text:,} of {coded_MN.shape[1]:,} items have a "
            f"text code, {with_image:,} an image code, {len(data.paired_items_P):,} both. "
            "Leave these tasks out (and set implicit_weight=0 without item pairs)."
        )
