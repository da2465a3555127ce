"""Candidates of the modalities and their fusion into one list per user; numpy only.

Shapes: U users, B users of a batch, W beams, C codes, K places of a list, P (user, item) pairs.

The candidates of a user are the items of both beam searches, and every candidate is scored
under BOTH modalities: by the beam that found it, else by teacher forcing. The fused score is
w log p_text + (1 - w) log p_image, a product of experts; normalising either modality over the
candidates would shift all of a user's scores alike and change no order. An item that lacks a
modality takes in its place the probability that keeps its share: p_image(i) / p_image(G) =
p_text(i) / p_text(G), G being the user's candidates with both. So it is neither punished for a
missing picture nor scored on another scale. Without any such G the other score stands in as it is,
so where no item has a modality the fused list is the other one's.

Items that share a code share its score: they are tied, and metrics count ties at expected value.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from macrec.tokens import MODALITIES, Modality

if TYPE_CHECKING:
    from macrec.trie import Trie

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class Lists(NamedTuple):
    """Ranked lists, best first, padded with item -1 and score -inf.

    A tie at the last place is kept whole, so a list can be longer than asked for.
    """

    items_UK: npt.NDArray[np.int32]
    scores_UK: FloatArray


class Candidates(NamedTuple):
    """All (user, item) pairs of both searches, sorted by user and item."""

    users: int
    user_P: IntArray
    item_P: IntArray
    scores_P: dict[Modality, FloatArray]
    """log p of the item's code; NaN where the item lacks the modality."""
    found_P: dict[Modality, npt.NDArray[np.bool_]]
    """Whether this modality's beam search found the item."""


class CodeScorer(Protocol):
    """Scores the codes of one modality for the users of one batch."""

    @property
    def trie(self) -> "Trie":
        """The codes and the items that carry them."""
        ...

    def search(self, beams: int) -> tuple[IntArray, FloatArray]:
        """Best leaves [B, W] per user and their scores [B, W]; leaf -1 where there are fewer."""
        ...

    def score(self, leaf_BC: IntArray) -> FloatArray:
        """Scores [B, C] of the given leaves; those of leaf -1 are of no account."""
        ...


class Pairs(NamedTuple):
    """The (user, item) pairs of the leaves that a search found."""

    user_P: IntArray
    item_P: IntArray
    beam_P: IntArray


def items_of(trie: "Trie", leaf_BW: IntArray) -> Pairs:
    """Every item of every leaf found; leaf -1 has none."""
    user_F, beam_F = np.nonzero(leaf_BW >= 0)
    first_F = trie.first_item[leaf_BW[user_F, beam_F]]
    count_F = trie.first_item[leaf_BW[user_F, beam_F] + 1] - first_F
    which_P = np.repeat(np.arange(len(user_F)), count_F)
    within_P = np.arange(len(which_P)) - np.repeat(np.cumsum(count_F) - count_F, count_F)
    item_P = trie.items[first_F[which_P] + within_P].astype(np.int64)
    return Pairs(user_F[which_P], item_P, beam_F[which_P])


def candidates_of_batch(scorers: Mapping[Modality, CodeScorer], beams: int) -> Candidates:
    """Search with every scorer, and score the union of the items under each.

    Every item lacks a modality that has no scorer.
    """
    searches: dict[Modality, tuple[IntArray, FloatArray]] = {
        modality: scorer.search(beams) for modality, scorer in scorers.items()
    }
    users = max(len(leaf_BW) for leaf_BW, _ in searches.values())
    items = max(len(scorer.trie.leaf_of_item_N) for scorer in scorers.values())
    keys = []
    for modality, (leaf_BW, _) in searches.items():
        pairs = items_of(scorers[modality].trie, leaf_BW)
        keys.append(pairs.user_P * items + pairs.item_P)
    user_P, item_P = np.divmod(np.unique(np.concatenate(keys)), items)
    scores_P: dict[Modality, FloatArray] = {}
    found_P: dict[Modality, npt.NDArray[np.bool_]] = {}
    for modality in MODALITIES:
        scores_P[modality] = np.full(len(user_P), np.nan, np.float32)
        found_P[modality] = np.zeros(len(user_P), bool)
    for modality, scorer in scorers.items():
        leaf_P = scorer.trie.leaf_of_item_N[item_P].astype(np.int64)
        scores_P[modality], found_P[modality] = _leaf_scores(
            scorer, *searches[modality], user_P, leaf_P
        )
    return Candidates(users, user_P, item_P, scores_P, found_P)


def _leaf_scores(
    scorer: CodeScorer,
    leaf_BW: IntArray,
    score_BW: FloatArray,
    user_P: IntArray,
    leaf_P: IntArray,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Scores of (user, leaf) pairs, NaN for leaf -1, and whether the search had found them.

    Each distinct leaf is scored once, so items that share one get the very same number.
    """
    leaves, has_P = max(scorer.trie.leaves, 1), leaf_P >= 0
    key_P = user_P * leaves + leaf_P
    wanted = np.unique(key_P[has_P])
    score = np.full(len(wanted), np.nan, np.float32)
    user_F, beam_F = np.nonzero(leaf_BW >= 0)
    place_F = np.searchsorted(wanted, user_F * leaves + leaf_BW[user_F, beam_F])
    score[place_F] = score_BW[user_F, beam_F]
    found = np.zeros(len(wanted), bool)
    found[place_F] = True
    user_M, leaf_M = np.divmod(wanted[~found], leaves)
    column_M = np.arange(len(user_M)) - np.searchsorted(user_M, user_M)
    asked_BC = np.full((len(leaf_BW), int(column_M.max(initial=-1)) + 1), -1, np.int64)
    asked_BC[user_M, column_M] = leaf_M
    if len(user_M):
        score[~found] = scorer.score(asked_BC)[user_M, column_M]
    score_P = np.full(len(leaf_P), np.nan, np.float32)
    found_P = np.zeros(len(leaf_P), bool)
    place_P = np.searchsorted(wanted, key_P[has_P])
    score_P[has_P], found_P[has_P] = score[place_P], found[place_P]
    return score_P, found_P


def joined(parts: Sequence[Candidates], users: int) -> Candidates:
    """The candidates of all batches as one; `user_P` must already number all users."""
    user_P = np.concatenate([np.zeros(0, np.int64), *(part.user_P for part in parts)])
    order = np.argsort(user_P, kind="stable")
    item_P = np.concatenate([np.zeros(0, np.int64), *(part.item_P for part in parts)])
    scores_P: dict[Modality, FloatArray] = {}
    found_P: dict[Modality, npt.NDArray[np.bool_]] = {}
    for m in MODALITIES:
        scores = [np.zeros(0, np.float32), *(part.scores_P[m] for part in parts)]
        found = [np.zeros(0, bool), *(part.found_P[m] for part in parts)]
        scores_P[m], found_P[m] = np.concatenate(scores)[order], np.concatenate(found)[order]
    return Candidates(users, user_P[order], item_P[order], scores_P, found_P)


def top_lists(
    user_P: IntArray, item_P: IntArray, score_P: npt.NDArray[np.floating], users: int, top_k: int
) -> Lists:
    """The `top_k` best items of every user, and all that tie with the last; ties by item index."""
    score_P = score_P.astype(np.float32)  # as it is listed: what is equal there is one tie here
    order = np.lexsort((item_P, -score_P, user_P))
    user_P, item_P, score_P = user_P[order], item_P[order], score_P[order]
    place_P = np.arange(len(user_P)) - np.searchsorted(user_P, user_P)
    last_U = np.full(users, -np.inf)
    last_U[user_P[place_P == top_k - 1]] = score_P[place_P == top_k - 1]
    kept_P = (place_P < top_k) | (score_P == last_U[user_P])
    width = max(top_k, int(place_P[kept_P].max(initial=-1)) + 1)
    items_UK = np.full((users, width), -1, np.int32)
    scores_UK = np.full((users, width), -np.inf, np.float32)
    items_UK[user_P[kept_P], place_P[kept_P]] = item_P[kept_P]
    scores_UK[user_P[kept_P], place_P[kept_P]] = score_P[kept_P]
    return Lists(items_UK, scores_UK)


def listed(candidates: Candidates, modality: Modality, top_k: int) -> Lists:
    """The list of one modality alone: what its own search found."""
    found_P = candidates.found_P[modality]
    return top_lists(
        candidates.user_P[found_P],
        candidates.item_P[found_P],
        candidates.scores_P[modality][found_P],
        candidates.users,
        top_k,
    )


def _log_mass(score_P: FloatArray, user_P: IntArray, users: int) -> npt.NDArray[np.float64]:
    """log of the sum of exp(score) per user [U]; -inf for a user without pairs."""
    top_U = np.full(users, -np.inf)
    np.maximum.at(top_U, user_P, score_P)
    mass_U = np.bincount(user_P, np.exp(score_P - top_U[user_P]), minlength=users)
    with np.errstate(divide="ignore"):
        return top_U + np.log(mass_U)


def _stood_in(candidates: Candidates) -> tuple[npt.NDArray[np.floating], ...]:
    """Scores by text and by image [P]; where an item lacks one, what keeps its share."""
    text_P, image_P = candidates.scores_P["text"], candidates.scores_P["image"]
    both_P = np.isfinite(text_P) & np.isfinite(image_P)
    user_G = candidates.user_P[both_P]
    mass_U = {
        modality: _log_mass(candidates.scores_P[modality][both_P], user_G, candidates.users)
        for modality in MODALITIES
    }
    some_U = np.isfinite(mass_U["text"])
    gap_U = np.zeros(candidates.users)
    gap_U[some_U] = mass_U["image"][some_U] - mass_U["text"][some_U]
    gap_P = gap_U[candidates.user_P]
    text_P = np.where(np.isnan(text_P), image_P - gap_P, text_P)
    return text_P, np.where(np.isnan(image_P), text_P + gap_P, image_P)


def fuse(candidates: Candidates, text_weight: float, top_k: int) -> Lists:
    """Lists by w log p_text + (1 - w) log p_image over the union of both searches."""
    text_P, image_P = _stood_in(candidates)
    fused_P = text_weight * text_P + (1 - text_weight) * image_P
    return top_lists(candidates.user_P, candidates.item_P, fused_P, candidates.users, top_k)


def fuse_reciprocal(candidates: Candidates, constant: float, top_k: int) -> Lists:
    """Lists by 1 / (k + rank by text) + 1 / (k + rank by image), k being the constant.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, who take k = 60). The ranks, from
    1, are those in the union of both searches, where every item has a score under both; items
    that tie share the mean of the reciprocals of their ranks.
    """
    fused_P = sum(
        _reciprocal_ranks(score_P, candidates.user_P, constant) for score_P in _stood_in(candidates)
    )
    return top_lists(
        candidates.user_P, candidates.item_P, np.asarray(fused_P), candidates.users, top_k
    )


def _reciprocal_ranks(
    score_P: npt.NDArray[np.floating], user_P: IntArray, constant: float
) -> npt.NDArray[np.float64]:
    """1 / (constant + rank) of every pair among those of its user, [P]."""
    order = np.lexsort((-score_P, user_P))
    user_P, score_P = user_P[order], score_P[order]
    begins_P = np.ones(len(order), bool)
    begins_P[1:] = (user_P[1:] != user_P[:-1]) | (score_P[1:] != score_P[:-1])
    start_T = np.flatnonzero(begins_P)  # T ties; most are of one item
    size_T = np.diff(np.append(start_T, len(order)))
    above_T = start_T - np.searchsorted(user_P, user_P[start_T])
    most = int((above_T + size_T).max(initial=0))
    total = np.concatenate([[0.0], np.cumsum(1 / (constant + np.arange(1, most + 1)))])
    mean_T = (total[above_T + size_T] - total[above_T]) / size_T
    reciprocal_P = np.empty(len(order))
    reciprocal_P[order] = np.repeat(mean_T, size_T)
    return reciprocal_P


def fuse_published(candidates: Candidates, levels: int, top_k: int) -> Lists:
    """The rule of the published code, for comparison: it puts what both searches found first.

    With a and b the mean log-probabilities per token of an item in the two lists, its score is
    (a + b) / 2 + 1 when both lists hold it, else a or b alone.
    """
    mean_P = {m: candidates.scores_P[m] / levels for m in MODALITIES}
    text_found_P, image_found_P = candidates.found_P["text"], candidates.found_P["image"]
    alone_P = np.where(text_found_P, mean_P["text"], mean_P["image"])
    shared_P = (mean_P["text"] + mean_P["image"]) / 2 + 1
    score_P = np.where(text_found_P & image_found_P, shared_P, alone_P)
    return top_lists(candidates.user_P, candidates.item_P, score_P, candidates.users, top_k)
