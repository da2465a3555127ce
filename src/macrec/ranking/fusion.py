"""Fuse the scores of the candidates into one list per user; numpy only.

Shapes: U users, K places of a list, P (user, item) pairs.

The fused score is w log p_text + (1 - w) log p_image, over the items that the two beam searches
found. It is a product of experts. Normalising a modality over the candidates would shift all scores
of a user equally and not change the order.

If an item lacks a modality, its probability there is estimated so that its share stays the same:
p_image(i) / p_image(G) = p_text(i) / p_text(G), where G is the user's candidates with both. So the
item is not penalised for a missing image, and its score is on the same scale. If G is empty, the
score of the other modality is used unchanged. So if no item has a modality, the fused list equals
the list of the other modality.

The hybrid list adds the item neighbours by a mixture: (1 - v) p + v q. Here p is the fused score as
a probability among the candidates, and q is the neighbours' share. A generator gives probability to
everything similar to the user's items. Neighbours identify rare items that were bought together. A
mixture keeps an item that either of them rates highly; a product would require both. Khandelwal et
al. 2020, "Generalization through memorization", mix a language model with its memory in this way.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from macrec.generator.tokens import MODALITIES, Modality
from macrec.ranking.candidates import Candidates, IntArray
from macrec.ranking.lists import Lists, top_lists


class Weights(NamedTuple):
    """Weights of the fused list and of the hybrid list."""

    text: float
    """w, the weight of the text score in the fused score, 0..1."""
    neighbours: float = 0.0
    """v, the weight of the neighbours in the hybrid list, 0..1, 1 excluded."""


def single_modality_list(candidates: Candidates, modality: Modality, top_k: int) -> Lists:
    """Return the list of a single modality: the items that its own search found."""
    found_P = candidates.found_P[modality]
    return top_lists(
        candidates.user_P[found_P],
        candidates.item_P[found_P],
        candidates.scores_P[modality][found_P],
        candidates.users,
        top_k,
    )


def neighbour_list(candidates: Candidates, top_k: int) -> Lists:
    """Return the list of the item neighbours alone."""
    near = candidates.where(candidates.share_P > 0)
    return top_lists(near.user_P, near.item_P, near.share_P, near.users, top_k)


def _log_mass(
    score_P: npt.NDArray[np.floating], user_P: IntArray, users: int
) -> npt.NDArray[np.float64]:
    """Return the log of the sum of exp(score) per user [U]; -inf for a user without pairs."""
    top_U = np.full(users, -np.inf)
    np.maximum.at(top_U, user_P, score_P)
    mass_U = np.bincount(user_P, np.exp(score_P - top_U[user_P]), minlength=users)
    with np.errstate(divide="ignore"):
        return top_U + np.log(mass_U)


def _fill_missing_scores(candidates: Candidates) -> tuple[npt.NDArray[np.floating], ...]:
    """Return the text scores and the image scores [P], with estimates for missing modalities.

    An estimate keeps the item's share (see the module docstring).
    """
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
    """Rank the union of both searches by w log p_text + (1 - w) log p_image."""
    candidates = candidates.from_search()
    fused_P = _fused_scores(candidates, text_weight)
    return top_lists(candidates.user_P, candidates.item_P, fused_P, candidates.users, top_k)


def _fused_scores(candidates: Candidates, text_weight: float) -> npt.NDArray[np.floating]:
    text_P, image_P = _fill_missing_scores(candidates)
    return text_weight * text_P + (1 - text_weight) * image_P


def fuse_with_neighbours(candidates: Candidates, weights: Weights, top_k: int) -> Lists:
    """Rank the items of both searches and the neighbours by log((1 - v) p + v q): the hybrid list.

    Here p is the fused score as a probability among the user's candidates, and q is the
    neighbours' share.
    """
    fused_P = _fused_scores(candidates, weights.text)
    mass_U = _log_mass(fused_P, candidates.user_P, candidates.users)
    probability_P = np.exp(fused_P - mass_U[candidates.user_P])
    mixed_P = (1 - weights.neighbours) * probability_P + weights.neighbours * candidates.share_P
    score_P = np.log(np.maximum(mixed_P, np.finfo(np.float64).tiny))
    return top_lists(candidates.user_P, candidates.item_P, score_P, candidates.users, top_k)


def best_lists(candidates: Candidates, weights: Weights, top_k: int) -> Lists:
    """Return the list to recommend: the hybrid list, or the fused list if neighbours weigh 0."""
    if weights.neighbours:
        return fuse_with_neighbours(candidates, weights, top_k)
    return fuse(candidates, weights.text, top_k)


def fuse_reciprocal(candidates: Candidates, constant: float, top_k: int) -> Lists:
    """Rank by 1 / (k + rank by text) + 1 / (k + rank by image), where k is `constant`.

    This is reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, with k = 60). Ranks start at
    1 and refer to the union of both searches, where every item has a score under both modalities.
    Tied items share the mean of the reciprocals of their ranks.
    """
    candidates = candidates.from_search()
    fused_P = sum(
        _reciprocal_ranks(score_P, candidates.user_P, constant)
        for score_P in _fill_missing_scores(candidates)
    )
    return top_lists(
        candidates.user_P, candidates.item_P, np.asarray(fused_P), candidates.users, top_k
    )


def _reciprocal_ranks(
    score_P: npt.NDArray[np.floating], user_P: IntArray, constant: float
) -> npt.NDArray[np.float64]:
    """Return 1 / (constant + rank) of every pair, ranked among the pairs of its user, [P]."""
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
    """Rank by the rule of the published code, for comparison.

    The rule puts items that both searches found first. Let a and b be the mean log-probabilities
    per token of an item in the two lists. Its score is (a + b) / 2 + 1 if both lists contain it,
    otherwise a or b alone.
    """
    candidates = candidates.from_search()
    mean_P = {m: candidates.scores_P[m] / levels for m in MODALITIES}
    text_found_P, image_found_P = candidates.found_P["text"], candidates.found_P["image"]
    alone_P = np.where(text_found_P, mean_P["text"], mean_P["image"])
    shared_P = (mean_P["text"] + mean_P["image"]) / 2 + 1
    score_P = np.where(text_found_P & image_found_P, shared_P, alone_P)
    return top_lists(candidates.user_P, candidates.item_P, score_P, candidates.users, top_k)
