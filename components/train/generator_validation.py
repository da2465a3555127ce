"""Validates by the NDCG@10 of the fused list, on a sample of users' last but one items."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import torch
from transformers import T5ForConditionalGeneration

from components.train.spec import Execution, Settings
from components.train.streams import Stream, generator
from macrec.core.errors import check
from macrec.core.processes import ALONE, Processes
from macrec.data.sequences import SeenItems, Sequences, should_drop_seen
from macrec.generator.model import Recommender
from macrec.generator.tokens import Int32Array
from macrec.metrics.ranking_metrics import per_user, ranks_in_lists
from macrec.ranking.ranker import rank_users

CUTOFF: Final = 10


class Validation(NamedTuple):
    """Users whose last but one item is predicted from all earlier items."""

    histories: list[Int32Array]
    targets_U: Int32Array
    drop_seen: bool
    """Whether lists leave out the items of their user's history."""


def validation_split(
    sequences: Sequences, users: int, seed: int, seen_items: SeenItems
) -> Validation:
    """Return histories and targets of at most `users` random users (0: all).

    Only users with at least three items are drawn.
    """
    able = np.flatnonzero(np.diff(sequences.offsets) >= 3)
    if users and users < len(able):
        draw = generator(seed, Stream.VALIDATION)
        able = np.sort(draw.choice(able, users, replace=False))
    end = sequences.offsets[able + 1] - 2
    spans = zip(sequences.offsets[able], end, strict=True)
    histories = [sequences.items[first:last] for first, last in spans]
    return Validation(histories, sequences.items[end], should_drop_seen(seen_items, sequences))


def fused_ndcg(
    recommender: Recommender,
    validation: Validation,
    config: Settings,
    execution: Execution,
    device: torch.device,
    processes: Processes = ALONE,
) -> Callable[[T5ForConditionalGeneration], float]:
    """Return a function that scores a model: mean NDCG@10 of the fused lists.

    There is one relevant item per user. Several processes share out the users, and all get the
    score of all users.
    """

    check(
        len(validation.targets_U) > 0,
        "sequences: no user has three items, so there is nothing to validate on.",
    )

    own = slice(processes.rank, None, processes.count)
    histories, targets_U = validation.histories[own], validation.targets_U[own]

    def total() -> float:
        if not histories:
            return 0.0
        lists = rank_users(
            recommender,
            histories,
            beams=config.validation_beams,
            top_k=CUTOFF,
            fusion_weight=config.fusion_weight,
            batch_size=execution.validation_batch,
            device=device,
            drop_seen=validation.drop_seen,
        )
        ranks = ranks_in_lists(lists.fused_items_UK, lists.fused_scores_UK, targets_U)
        return float(per_user(ranks, (CUTOFF,))[f"ndcg_{CUTOFF}"].sum())

    def score(model: T5ForConditionalGeneration) -> float:
        assert model is recommender.model
        summed = torch.tensor(total(), dtype=torch.float64)
        processes.sum(summed)
        return float(summed) / len(validation.targets_U)

    return score
