"""Rank items for histories: a beam search per modality, and the fusion of both results.

Shapes: U users, B users of a batch, W beams, C codes, K places of a list, P (user, item) pairs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from macrec.compute.precision import Precision, warn_if_slow
from macrec.core.progress import Progress
from macrec.data.sequences import Histories, seen_pairs
from macrec.generator.decoder import encode
from macrec.generator.model import Recommender
from macrec.generator.scorer import GeneratorScorer, code_trie
from macrec.generator.tokens import (
    MODALITIES,
    PAD,
    SEQUENCE_TASK,
    Modality,
    TokenStream,
    gather_sources,
    source_lengths,
)
from macrec.generator.trie import Trie
from macrec.ranking.candidates import (
    Candidates,
    CodeScorer,
    candidates_by_shares,
    items_of_leaves,
    join_candidates,
)
from macrec.ranking.fusion import fuse, single_modality_list
from macrec.ranking.lists import Lists, top_lists
from macrec.ranking.neighbours import AnyNeighbours, Shares

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

BEAMS_AT_ONCE = 16_384
"""Beams of all users that are searched together; limits the memory of keys and values."""
MASKS_AT_ONCE = 2**26
"""Numbers in the attention masks of the beams, which grow with the square of the beams."""
SOURCE_STEP = 16
"""If shapes are fixed, sources are padded to a multiple of this length."""


class RankedLists(NamedTuple):
    """The three lists of every user, in the order of the given histories.

    If no item has a modality, its list is empty and the fused list equals that of the other one.
    """

    text_items_UK: npt.NDArray[np.int32]
    text_scores_UK: FloatArray
    image_items_UK: npt.NDArray[np.int32]
    image_scores_UK: FloatArray
    fused_items_UK: npt.NDArray[np.int32]
    fused_scores_UK: FloatArray


class Ranker:
    """A recommender ready to rank, with its model on the device and its tries built."""

    def __init__(
        self,
        recommender: Recommender,
        *,
        device: torch.device | str,
        batch_size: int,
        renormalise: bool = False,
        drop_seen: bool = False,
        precision: Precision = "float32",
        allowed_N: npt.NDArray[np.bool_] | None = None,
        neighbours: AnyNeighbours | None = None,
        exhaustive: bool = False,
    ) -> None:
        """Place the model on the device and build the tries. See `rank_users`.

        Args:
            recommender: its model must be in evaluation mode when it ranks.
            device: device of the model.
            batch_size: users decoded at once, if their beams fit (`BEAMS_AT_ONCE`).
            renormalise: take each softmax over the legal codes only.
            drop_seen: exclude all items of a user's own history, including the part that the model
                does not read; other items fill the beams.
            precision: precision of the model's matrix products; scores are summed in float32.
            allowed_N: bool [N], the items that may be listed; None for all.
            neighbours: item neighbours that add and weight candidates; None for no neighbours.
            exhaustive: score the whole catalogue instead of searching; for small catalogues.
        """
        self.recommender, self.device = recommender, torch.device(device)
        self.batch_size, self.renormalise = batch_size, renormalise
        self.drop_seen, self.exhaustive = drop_seen, exhaustive
        warn_if_slow(precision, self.device.type)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else None
        self.fixed_shapes = self.device.type != "cpu"
        """Use few batch shapes, so that kernels need not be selected again for each batch."""
        recommender.model.to(self.device)  # pyright: ignore[reportArgumentType]
        self.tries: dict[Modality, Trie] = {
            modality: code_trie(recommender, modality, self.device)
            for modality in recommender.modalities
        }
        if allowed_N is not None:
            assert allowed_N.shape == (len(recommender.text_codes_NL),)
            self.tries = {m: trie.restrict(allowed_N) for m, trie in self.tries.items()}
        self.neighbours = neighbours
        self._listable_N = np.any([t.leaf_of_item_N >= 0 for t in self.tries.values()], axis=0)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that can be searched."""
        return tuple(self.tries)

    def candidates(
        self,
        histories: Histories,
        beams: int,
        progress: Progress | None = None,
    ) -> Candidates:
        """Search every modality, and score all found items under each modality."""
        return self.candidates_by(histories, beams, [self.neighbours], progress)[0]

    def candidates_by(
        self,
        histories: Histories,
        beams: int,
        neighbours: Sequence[AnyNeighbours | None],
        progress: Progress | None = None,
    ) -> list[Candidates]:
        """Return `candidates` for each of several sets of neighbours, with one search.

        Each set replaces the ranker's own neighbours.
        """
        parts = [list[Candidates]() for _ in neighbours]
        for batch in self._batches(histories, self.modalities, beams):
            shares = [self._shares(batch, known) for known in neighbours]
            found = candidates_by_shares(batch.scorers, beams, shares)
            for part, several in zip(found, parts, strict=True):
                unseen = part.where(batch.unseen(part.user_P, part.item_P))
                several.append(unseen._replace(user_P=batch.users_B[unseen.user_P]))
            if progress:
                progress.advance(len(batch.users_B))
        return [join_candidates(several, len(histories)) for several in parts]

    def search(
        self,
        histories: Histories,
        modality: Modality,
        beams: int,
        top_k: int,
        progress: Progress | None = None,
    ) -> Lists:
        """Return the lists of a single modality."""
        users, items, scores = [], [], []
        for batch in self._batches(histories, (modality,), beams):
            leaf_BW, score_BW = batch.scorers[modality].search(beams)
            pair = items_of_leaves(self.tries[modality], leaf_BW)
            kept_P = batch.unseen(pair.user_P, pair.item_P)
            user_P, beam_P = pair.user_P[kept_P], pair.beam_P[kept_P]
            users.append(batch.users_B[user_P])
            items.append(pair.item_P[kept_P])
            scores.append(score_BW[user_P, beam_P])
            if progress:
                progress.advance(len(batch.users_B))
        columns = [np.concatenate(parts) for parts in (users, items, scores)]
        return top_lists(*columns, users=len(histories), top_k=top_k)

    def _shares(self, batch: "_Batch", neighbours: AnyNeighbours | None) -> Shares | None:
        if neighbours is None:
            return None
        return neighbours.shares(batch.histories, self._listable_N, batch.seen)

    def _users_at_once(self, beams: int) -> int:
        """Return the largest batch size, up to `batch_size`, for which the beams fit in memory."""
        heads, levels = self.recommender.model.config.num_heads, self.recommender.vocabulary.levels
        masks = MASKS_AT_ONCE // (heads * (levels - 1) * beams**2 + 1)
        return max(1, min(self.batch_size, BEAMS_AT_ONCE // beams, masks))

    def _batches(
        self, histories: Histories, modalities: Sequence[Modality], beams: int
    ) -> Iterator["_Batch"]:
        """Yield batches of users with sources of similar length, with the scorers of each batch."""

        cut = [np.asarray(h, np.int64)[-self.recommender.max_history :] for h in histories]
        assert all(len(history) for history in cut), "a user without history"
        bounds = np.zeros(len(cut) + 1, np.int64)
        np.cumsum([len(history) for history in cut], out=bounds[1:])
        items_K = np.concatenate([np.zeros(0, np.int64), *cut])
        streams: dict[Modality, TokenStream] = {
            modality: self.recommender.stream(modality, items_K) for modality in modalities
        }
        lengths_U = sum(source_lengths(s, bounds[:-1], bounds[1:]) for s in streams.values())
        order = np.argsort(lengths_U, kind="stable")
        at_once = self._users_at_once(beams)
        for start in range(0, len(order), at_once):
            users_B = order[start : start + at_once]
            seen = seen_pairs([histories[user] for user in users_B]) if self.drop_seen else None
            scorers: dict[Modality, CodeScorer] = {}
            for modality, stream in streams.items():
                source_BS = gather_sources(stream, bounds[users_B], bounds[users_B + 1])
                if self.fixed_shapes:
                    source_BS = _rounded_up(source_BS, at_once)
                ids_BS = torch.from_numpy(source_BS).to(self.device)
                trie = self.tries[modality]
                scorers[modality] = GeneratorScorer(
                    trie=trie,
                    encoded=encode(self.recommender.model, ids_BS, self._dtype),
                    start_token=SEQUENCE_TASK[modality],
                    users=len(users_B),
                    renormalise=self.renormalise,
                    exhaustive=self.exhaustive,
                    hidden=trie.hidden(*seen, len(source_BS)) if seen else None,
                )
            yield _Batch(users_B, [cut[user] for user in users_B], scorers, seen)


class _Batch(NamedTuple):
    users_B: IntArray
    histories: list[IntArray]
    """The part of each history that the model reads."""
    scorers: dict[Modality, CodeScorer]
    seen: tuple[IntArray, IntArray] | None
    """(user of the batch, item) pairs that must not be listed."""

    def unseen(self, user_P: IntArray, item_P: IntArray) -> npt.NDArray[np.bool_]:
        """Return which pairs may be listed."""
        if self.seen is None:
            return np.ones(len(user_P), bool)
        users = len(self.users_B)
        return ~np.isin(item_P * users + user_P, self.seen[1] * users + self.seen[0])


def _rounded_up(source_BS: IntArray, most_users: int) -> IntArray:
    """Pad sources to a multiple of SOURCE_STEP, and their number to a power of two.

    Repeats of the first source fill the added rows. There are at most `most_users` rows.
    """
    users, length = source_BS.shape
    rows = min(most_users, 1 << (users - 1).bit_length())
    padding = (0, rows - users), (0, -length % SOURCE_STEP)
    padded_BS = np.pad(source_BS, padding, constant_values=PAD)
    padded_BS[users:] = padded_BS[0]
    return padded_BS


def rank_users(
    recommender: Recommender,
    histories: Histories,
    *,
    beams: int = 20,
    top_k: int = 20,
    fusion_weight: float = 0.5,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    renormalise: bool = False,
    drop_seen: bool = False,
    progress: Progress | None = None,
) -> RankedLists:
    """Rank the whole catalogue for every user by text, by image, and by both.

    Args:
        recommender: its model is put into evaluation mode during the call.
        histories: item indices in time order, one non-empty array per user.
        beams: number of beams of each search.
        top_k: length of the lists; a tie at the last place is kept as a whole.
        fusion_weight: weight w of the text score, 0..1; the image score has the weight 1 - w.
        batch_size: users decoded at once.
        device: device of the model.
        renormalise: take each softmax over the legal codes only (`generator.beam_search`).
        drop_seen: exclude the items of each user's own history.
        progress: advanced by the number of finished users.
    """
    training = recommender.model.training
    recommender.model.eval()
    try:
        ranker = Ranker(
            recommender,
            device=device,
            batch_size=batch_size,
            renormalise=renormalise,
            drop_seen=drop_seen,
        )
        candidates = ranker.candidates(histories, beams, progress)
    finally:
        recommender.model.train(training)
    text, image = (single_modality_list(candidates, modality, top_k) for modality in MODALITIES)
    return RankedLists(*text, *image, *fuse(candidates, fusion_weight, top_k))
