"""Ranks with every system that is compared: text, image, fused, more beams, most popular.

Item neighbours and the hybrid list, which draws on all candidates, are added unless they are turned
off. If items have codes in one modality only, there is no fusion, and the neighbours are combined
with that modality's list.

Shapes: U users of a chunk, T all test users, K positions, N items.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.evaluate.spec import Settings
from macrec.core.progress import Progress, log
from macrec.data.sequences import seen_pairs
from macrec.data.split import Cases, Split
from macrec.generator.tokens import MODALITIES
from macrec.metrics.predictions import SHOWN_CUTOFF, SystemScores, rows
from macrec.metrics.ranking_metrics import (
    CUTOFFS,
    per_user,
    popularity,
    ranks_by_value,
    ranks_in_lists,
    shown_by_value,
    shown_counts,
)
from macrec.ranking.candidates import Candidates
from macrec.ranking.fusion import (
    Weights,
    best_lists,
    fuse,
    fuse_published,
    fuse_reciprocal,
    neighbour_list,
    single_modality_list,
)
from macrec.ranking.lists import Lists
from macrec.ranking.neighbour_mix import Mix
from macrec.ranking.neighbours import AnyNeighbours
from macrec.ranking.ranker import Ranker

USERS_AT_ONCE: Final = 16_384
"""Number of users whose candidates are in memory together."""
CHOSEN_BY: Final = "ndcg_10"
VALIDATION_STREAM, BOOTSTRAP_STREAM, EXAMPLES_STREAM = 0, 1, 2  # of the seed


class WeightChoice(NamedTuple):
    """The weights of the fusion, and the scores that they were chosen by."""

    weights: Weights
    tried_text: dict[float, float]
    """Validation NDCG@10 of the fused list by weight of the text score. It is empty if there was
    nothing to choose or no user to validate on."""
    tried_neighbours: dict[float, float]
    """Validation NDCG@10 of the hybrid list by weight of the neighbours, with the chosen text
    weight."""
    users: int
    """Number of validation users."""
    mix: Mix = Mix()
    """How the item neighbours are computed."""


@dataclass
class AllScores:
    """The metrics of all systems over the same users."""

    systems: dict[str, SystemScores]
    popularity_N: npt.NDArray[np.int64]
    """Number of training interactions of each item."""
    users: int = 0

    @property
    def generated(self) -> str:
        """The list of the generator alone: the fused list, or that of the only modality."""
        return next(name for name in ("fused", *MODALITIES) if name in self.systems)

    @property
    def main(self) -> str:
        """The system to deploy: the hybrid list if there is one, else the generator's list."""
        return "hybrid" if "hybrid" in self.systems else self.generated


def choose_weights(
    ranker: Ranker, split: Split, config: Settings, known: Mapping[Mix, AnyNeighbours]
) -> WeightChoice:
    """Return the weights with the best NDCG@10 on validation users, text first, then neighbours.

    On a tie, the text weight nearest 0.5 wins. For the neighbours, the smaller weight wins, then
    the smaller share of similar items, the smaller share of successors and the smaller asymmetry.
    If there is only one modality, it has the whole weight.

    Args:
        ranker: its own neighbours are ignored.
        split: selects the validation users.
        config: the weights to choose from.
        known: the neighbours by the mix that they are computed with; empty if none are used.
    """
    fused, hybrid = len(ranker.modalities) > 1, bool(known)
    text = min(config.fusion_weights, key=lambda w: abs(w - 0.5))
    if not fused:
        text = float(ranker.modalities == ("text",))
    untried = Weights(text, min(config.neighbour_weights) if hybrid else 0.0)
    if not fused and not hybrid:
        return WeightChoice(untried, {}, {}, 0)
    generator = np.random.default_rng([config.seed, VALIDATION_STREAM])
    cases = split.validation(config.validation_users, generator)
    if not cases.histories:
        log.warning("evaluate: no user has three interactions; fusion weights untried: %s", untried)
        return WeightChoice(untried, {}, {}, 0, min(known, default=Mix()))
    mixes = list(known) or [Mix()]
    ways = [known.get(mix) for mix in mixes]
    with Progress("evaluate, fusion weights", len(cases.histories), "users") as progress:
        several = ranker.candidates_by(cases.histories, config.beams, ways, progress)
    found = dict(zip(mixes, several, strict=True))

    def score(weights: Weights, candidates: Candidates = several[0]) -> float:
        ranks = ranks_in_lists(*best_lists(candidates, weights, config.top_k), cases.targets_T)
        return float(per_user(ranks, (10,))[CHOSEN_BY].mean())

    tried_text: dict[float, float] = {}
    if fused:
        tried_text = {w: score(Weights(w)) for w in sorted(set(config.fusion_weights))}
        text = max(tried_text, key=lambda w: (tried_text[w], -abs(w - 0.5)))
        log.info("evaluate: text weight %g, validation NDCG@10 %.4f", text, tried_text[text])
    users = len(cases.histories)
    if not hybrid:
        return WeightChoice(Weights(text), tried_text, {}, users)
    weights = sorted(set(config.neighbour_weights))
    tried = {mix: {w: score(Weights(text, w), found[mix]) for w in weights} for mix in found}
    mix, best = max(
        product(tried, weights),
        key=lambda at: (
            tried[at[0]][at[1]],
            *(-at[1], -at[0].similar_item_share, -at[0].successor_share, -at[0].asymmetry),
        ),
    )
    log.info(
        "evaluate: neighbour weight %g, asymmetry %g, share of similar items %g, of successors %g, "
        "validation NDCG@10 %.4f",
        *(best, *mix, tried[mix][best]),
    )
    return WeightChoice(Weights(text, best), tried_text, tried[mix], users, mix)


def evaluate(
    ranker: Ranker,
    split: Split,
    weights: Weights,
    config: Settings,
    write: Callable[[pa.Table], None],
) -> AllScores:
    """Rank for every test user, and pass each system's lists to `write` as predictions."""
    items = len(ranker.recommender.text_codes_NL)
    cutoffs = tuple(cutoff for cutoff in CUTOFFS if cutoff <= config.top_k)
    counts_N = popularity(split.training().items, items)
    popular = SystemScores(np.zeros(items, np.int64))
    result = AllScores({"popular": popular}, counts_N)
    with Progress("evaluate", len(split.users_T), "users") as progress:
        for start in range(0, len(split.users_T), USERS_AT_ONCE):
            users_U = split.users_T[start : start + USERS_AT_ONCE]
            cases = split.test(users_U)
            for system, lists in _lists(ranker, cases, weights, config, progress):
                empty = SystemScores(np.zeros(items, np.int64))
                scores = result.systems.setdefault(system, empty)
                scores.add(ranks_in_lists(*lists, cases.targets_T), cutoffs)
                scores.shown_N += shown_counts(lists.items_UK, SHOWN_CUTOFF, items)
                write(rows(split.user_ids.take(users_U), system, cases.targets_T, lists))
            seen = seen_pairs(cases.histories if ranker.drop_seen else [])
            popular.add(ranks_by_value(counts_N, cases.targets_T, seen), cutoffs)
            popular.shown_N += shown_by_value(counts_N, len(users_U), SHOWN_CUTOFF, seen)
            result.users += len(users_U)
    if "neighbours" in result.systems and not result.systems["neighbours"].shown_N.any():
        log.warning("evaluate: no test user has neighbours to list, so they have no row")
        del result.systems["neighbours"]
    for system, scores in result.systems.items():
        users = {name: len(value_T) for name, value_T in scores.values.items()}
        assert set(users.values()) == {len(split.users_T)}, f"{system}: {users} users"
    return result


def _lists(
    ranker: Ranker, cases: Cases, weights: Weights, config: Settings, progress: Progress
) -> Iterator[tuple[str, Lists]]:
    candidates = ranker.candidates(cases.histories, config.beams, progress)
    for modality in ranker.modalities:
        yield modality, single_modality_list(candidates, modality, config.top_k)
    if len(ranker.modalities) > 1:
        yield from _wide(ranker, cases, config)
        yield from _fused(ranker, candidates, weights, config)
    if ranker.neighbours is not None:
        yield "neighbours", neighbour_list(candidates, config.top_k)
        yield "hybrid", best_lists(candidates, weights, config.top_k)


def _wide(ranker: Ranker, cases: Cases, config: Settings) -> Iterator[tuple[str, Lists]]:
    beams = config.single_modality_beams
    for modality in ranker.modalities if beams else ():
        yield f"{modality}_wide", ranker.search(cases.histories, modality, beams, config.top_k)


def _fused(
    ranker: Ranker, candidates: Candidates, weights: Weights, config: Settings
) -> Iterator[tuple[str, Lists]]:
    if config.published_fusion:
        levels = ranker.recommender.vocabulary.levels
        yield "fused_published", fuse_published(candidates, levels, config.top_k)
    if config.reciprocal_fusion:
        constant = config.reciprocal_constant
        yield "fused_rrf", fuse_reciprocal(candidates, constant, config.top_k)
    yield "fused", fuse(candidates, weights.text, config.top_k)
