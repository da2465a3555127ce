"""The candidates of every user: the items that the searches find, with all their scores.

Shapes: U users, B users of a batch, W beams, C codes, P (user, item) pairs.

The candidates of a user are the items of both beam searches, and the user's best item neighbours if
there are any (`macrec.ranking.neighbours`). If neighbours are computed in several ways, the search
and the scores that they share are computed once. Each candidate is scored under BOTH modalities: by
the beam that found it, or otherwise by teacher forcing. Items that share a code share its score.
They are tied, and the metrics count ties at their expected value.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from macrec.generator.tokens import MODALITIES, Modality
from macrec.generator.trie import Trie
from macrec.ranking.neighbours import Shares

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class Candidates(NamedTuple):
    """All candidate (user, item) pairs, sorted by user and item."""

    users: int
    user_P: IntArray
    item_P: IntArray
    scores_P: dict[Modality, FloatArray]
    """log p of the item's code; NaN if the item lacks the modality."""
    found_P: dict[Modality, npt.NDArray[np.bool_]]
    """Whether this modality's beam search found the item."""
    share_P: FloatArray
    """The item's share among the user's neighbours, 0 if it is not a neighbour."""

    def where(self, kept_P: npt.NDArray[np.bool_] | IntArray) -> "Candidates":
        """Return the selected pairs; the number of users stays the same."""
        return self._replace(
            user_P=self.user_P[kept_P],
            item_P=self.item_P[kept_P],
            scores_P={m: score_P[kept_P] for m, score_P in self.scores_P.items()},
            found_P={m: found_P[kept_P] for m, found_P in self.found_P.items()},
            share_P=self.share_P[kept_P],
        )

    def from_search(self) -> "Candidates":
        """Return the candidates that a beam search found."""
        return self.where(self.found_P["text"] | self.found_P["image"])


class CodeScorer(Protocol):
    """Scores the codes of one modality for the users of one batch."""

    @property
    def trie(self) -> Trie:
        """The codes, and the items that have them."""
        ...

    def search(self, beams: int) -> tuple[IntArray, FloatArray]:
        """Return each user's best leaves [B, W] and their scores [B, W], padded with leaf -1."""
        ...

    def score(self, leaf_BC: IntArray) -> FloatArray:
        """Return the scores [B, C] of the given leaves; the scores of leaf -1 are arbitrary."""
        ...


class Pairs(NamedTuple):
    """The (user, item) pairs of the leaves that a search found."""

    user_P: IntArray
    item_P: IntArray
    beam_P: IntArray


def items_of_leaves(trie: Trie, leaf_BW: IntArray) -> Pairs:
    """Return every item of every leaf; leaf -1 has no items."""
    user_F, beam_F = np.nonzero(leaf_BW >= 0)
    first_F = trie.first_item[leaf_BW[user_F, beam_F]]
    count_F = trie.first_item[leaf_BW[user_F, beam_F] + 1] - first_F
    which_P = np.repeat(np.arange(len(user_F)), count_F)
    within_P = np.arange(len(which_P)) - np.repeat(np.cumsum(count_F) - count_F, count_F)
    item_P = trie.items[first_F[which_P] + within_P].astype(np.int64)
    return Pairs(user_F[which_P], item_P, beam_F[which_P])


def candidates_of_batch(
    scorers: Mapping[Modality, CodeScorer], beams: int, shares: Shares | None = None
) -> Candidates:
    """Search with every scorer, and score the union of the items under each modality.

    Items have no score in a modality without a scorer. Each user's `beams` best neighbours are
    candidates too. Each neighbour must have a code in the trie of one of the scorers.
    """
    return candidates_by_shares(scorers, beams, [shares])[0]


def candidates_by_shares(
    scorers: Mapping[Modality, CodeScorer], beams: int, by: Sequence[Shares | None]
) -> list[Candidates]:
    """Return `candidates_of_batch` for each of several sets of neighbours, with one search."""
    searches: dict[Modality, tuple[IntArray, FloatArray]] = {
        modality: scorer.search(beams) for modality, scorer in scorers.items()
    }
    users = max(len(leaf_BW) for leaf_BW, _ in searches.values())
    items = max(len(scorer.trie.leaf_of_item_N) for scorer in scorers.values())
    keys = []
    for modality, (leaf_BW, _) in searches.items():
        pairs = items_of_leaves(scorers[modality].trie, leaf_BW)
        keys.append(pairs.user_P * items + pairs.item_P)
    near_keys = [_keys_of_best(shares, beams, items) for shares in by]
    keys += near_keys
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
    none_P = np.zeros(len(user_P), np.float32)
    union = Candidates(users, user_P, item_P, scores_P, found_P, none_P)
    searched_P, key_P = found_P["text"] | found_P["image"], user_P * items + item_P
    found: list[Candidates] = []
    for shares, keys_P in zip(by, near_keys, strict=True):
        share_P = shares.of(user_P, item_P) if shares is not None else none_P
        own = union._replace(share_P=share_P)
        found.append(own.where(searched_P | np.isin(key_P, keys_P)))
    return found


def _keys_of_best(shares: Shares | None, most: int, items: int) -> IntArray:
    """Return the keys, user x items + item, of the neighbours that become candidates."""
    if shares is None:
        return np.zeros(0, np.int64)
    best = shares.best(most)
    return best.user_P * items + best.item_P


def _leaf_scores(
    scorer: CodeScorer,
    leaf_BW: IntArray,
    score_BW: FloatArray,
    user_P: IntArray,
    leaf_P: IntArray,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the scores of (user, leaf) pairs, and whether the search found them.

    The score of leaf -1 is NaN. Each distinct leaf is scored once, so items that share a leaf get
    exactly the same score.
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


def join_candidates(parts: Sequence[Candidates], users: int) -> Candidates:
    """Join the candidates of all batches; `user_P` must already number the users of all batches."""
    none = np.zeros(0, np.float32)
    scores_P: dict[Modality, FloatArray] = {}
    found_P: dict[Modality, npt.NDArray[np.bool_]] = {}
    for m in MODALITIES:
        scores_P[m] = np.concatenate([none, *(part.scores_P[m] for part in parts)])
        found_P[m] = np.concatenate([none == 0, *(part.found_P[m] for part in parts)])
    whole = Candidates(
        users,
        np.concatenate([np.zeros(0, np.int64), *(part.user_P for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.item_P for part in parts)]),
        scores_P,
        found_P,
        np.concatenate([none, *(part.share_P for part in parts)]),
    )
    return whole.where(np.argsort(whole.user_P, kind="stable"))
