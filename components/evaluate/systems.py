"""The systems that are compared: text, image, fused, single modalities with more beams, popular.

Where items have codes in one modality alone, its list and the popular one are all there is.

Shapes: U users of a chunk, T all test users, K places, N items.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from macrec.fusion import Lists, fuse, fuse_published, fuse_reciprocal, listed
from macrec.metrics import (
    CUTOFFS,
    per_user,
    popularity,
    ranks_by_value,
    ranks_in_lists,
    shown_by_value,
    shown_counts,
)
from macrec.predictions import SHOWN_CUTOFF, SystemScores, rows
from macrec.progress import Progress, log
from macrec.ranking import Ranker
from macrec.sequences import seen_pairs
from macrec.split import Cases, Split
from macrec.tokens import MODALITIES

if TYPE_CHECKING:
    from components.evaluate.main import Config

USERS_AT_ONCE: Final = 16_384
"""Users whose candidates are held in memory together."""
CHOSEN_BY: Final = "ndcg_10"
VALIDATION_STREAM, BOOTSTRAP_STREAM, EXAMPLES_STREAM = 0, 1, 2  # of the seed


class WeightChoice(NamedTuple):
    """The weight of the text score in the fusion, and what it was chosen from."""

    weight: float
    tried: dict[float, float]
    """Validation NDCG@10 by weight; empty if nobody could be validated on."""
    users: int


@dataclass
class Evaluated:
    """The metrics of all systems over the same users."""

    systems: dict[str, SystemScores]
    popularity_N: npt.NDArray[np.int64]
    """Training interactions of each item."""
    users: int = 0

    @property
    def main(self) -> str:
        """The system that a shop would use: the fused list, or that of the only modality."""
        return next(name for name in ("fused", *MODALITIES) if name in self.systems)


def choose_weight(ranker: Ranker, split: Split, config: "Config") -> WeightChoice:
    """The weight with the best NDCG@10 on validation users; the one nearest 0.5 on a tie.

    The whole weight where there is one modality.
    """
    if len(ranker.modalities) == 1:
        return WeightChoice(float(ranker.modalities == ("text",)), {}, 0)
    generator = np.random.default_rng([config.seed, VALIDATION_STREAM])
    cases = split.validation(config.validation_users, generator)
    if not cases.histories:
        weight = min(config.fusion_weights, key=lambda w: abs(w - 0.5))
        log.warning("evaluate: no user has three interactions; fusion weight %g untried", weight)
        return WeightChoice(weight, {}, 0)
    with Progress("evaluate, fusion weight", len(cases.histories), "users") as progress:
        candidates = ranker.candidates(cases.histories, config.beams, progress)
    tried: dict[float, float] = {}
    for weight in sorted(set(config.fusion_weights)):
        ranks = ranks_in_lists(*fuse(candidates, weight, config.top_k), cases.targets_T)
        tried[weight] = float(per_user(ranks, (10,))[CHOSEN_BY].mean())
    weight = max(tried, key=lambda w: (tried[w], -abs(w - 0.5)))
    log.info("evaluate: fusion weight %g, validation NDCG@10 %.4f", weight, tried[weight])
    return WeightChoice(weight, tried, len(cases.histories))


def evaluate(
    ranker: Ranker,
    split: Split,
    weight: float,
    config: "Config",
    write: Callable[[pa.Table], None],
) -> Evaluated:
    """Ranks for every test user and hands each system's lists to `write` as predictions."""
    items = len(ranker.recommender.text_codes_NL)
    cutoffs = tuple(cutoff for cutoff in CUTOFFS if cutoff <= config.top_k)
    counts_N = popularity(split.training_items(), items)
    popular = SystemScores(np.zeros(items, np.int64))
    result = Evaluated({"popular": popular}, counts_N)
    with Progress("evaluate", len(split.users_T), "users") as progress:
        for start in range(0, len(split.users_T), USERS_AT_ONCE):
            users_U = split.users_T[start : start + USERS_AT_ONCE]
            cases = split.test(users_U)
            for system, lists in _lists(ranker, cases, weight, config, progress):
                empty = SystemScores(np.zeros(items, np.int64))
                scores = result.systems.setdefault(system, empty)
                scores.add(ranks_in_lists(*lists, cases.targets_T), cutoffs)
                scores.shown_N += shown_counts(lists.items_UK, SHOWN_CUTOFF, items)
                write(rows(split.user_ids.take(users_U), system, cases.targets_T, lists))
            seen = seen_pairs(cases.histories if ranker.drop_seen else [])
            popular.add(ranks_by_value(counts_N, cases.targets_T, seen), cutoffs)
            popular.shown_N += shown_by_value(counts_N, len(users_U), SHOWN_CUTOFF, seen)
            result.users += len(users_U)
    for system, scores in result.systems.items():
        users = {name: len(value_T) for name, value_T in scores.values.items()}
        assert set(users.values()) == {len(split.users_T)}, f"{system}: {users} users"
    return result


def _lists(
    ranker: Ranker, cases: Cases, weight: float, config: "Config", progress: Progress
) -> Iterator[tuple[str, Lists]]:
    candidates = ranker.candidates(cases.histories, config.beams, progress)
    for modality in ranker.modalities:
        yield modality, listed(candidates, modality, config.top_k)
    if len(ranker.modalities) == 1:
        return
    if config.single_modality_beams:
        for modality in ranker.modalities:
            yield (
                f"{modality}_wide",
                ranker.search(
                    cases.histories, modality, config.single_modality_beams, config.top_k
                ),
            )
    if config.published_fusion:
        levels = ranker.recommender.vocabulary.levels
        yield "fused_published", fuse_published(candidates, levels, config.top_k)
    if config.reciprocal_fusion:
        constant = config.reciprocal_constant
        yield "fused_rrf", fuse_reciprocal(candidates, constant, config.top_k)
    yield "fused", fuse(candidates, weight, config.top_k)
