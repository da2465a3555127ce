"""From histories to ranked lists of items: a beam search per modality and the fusion of the two.

Shapes: U users, B users of a batch, W beams, C codes, K places of a list, P (user, item) pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from macrec.fusion import (
    Candidates,
    CodeScorer,
    Lists,
    candidates_of_batch,
    fuse,
    items_of,
    joined,
    listed,
    top_lists,
)
from macrec.generator import (
    MODALITIES,
    SEQUENCE_TASK,
    Modality,
    Recommender,
    TokenStream,
    gather_sources,
    has_code,
    source_lengths,
    token_stream,
)
from macrec.progress import Progress

if TYPE_CHECKING:
    import torch

    from macrec.decode import Encoded
    from macrec.trie import Trie

Histories = Sequence[npt.NDArray[np.integer]]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

SCORED_AT_ONCE = 64
"""Codes per user in one teacher-forced pass; bounds the memory of its logits."""


class RankedLists(NamedTuple):
    """The three lists of every user, in the order of the histories given.

    The list of a modality that no item has is empty, and the fused list is the other one's.
    """

    text_items_UK: npt.NDArray[np.int32]
    text_scores_UK: FloatArray
    image_items_UK: npt.NDArray[np.int32]
    image_scores_UK: FloatArray
    fused_items_UK: npt.NDArray[np.int32]
    fused_scores_UK: FloatArray


@dataclass(frozen=True)
class GeneratorScorer:
    """The recommender's model as a CodeScorer."""

    recommender: Recommender
    trie: "Trie"
    encoded: "Encoded"
    start_token: int
    renormalise: bool

    def search(self, beams: int) -> tuple[IntArray, FloatArray]:
        from macrec.decode import beam_search

        model, start = self.recommender.model, self.start_token
        found = beam_search(
            model, self.encoded, start, self.trie, beams, renormalise=self.renormalise
        )
        return found.leaf_BW.cpu().numpy(), found.score_BW.cpu().numpy()

    def score(self, leaf_BC: IntArray) -> FloatArray:
        import torch

        from macrec.decode import score_items

        legal = self.trie if self.renormalise else None
        parts: list[FloatArray] = [np.empty((len(leaf_BC), 0), np.float32)]
        for first in range(0, leaf_BC.shape[1], SCORED_AT_ONCE):
            chunk_BC = torch.from_numpy(leaf_BC[:, first : first + SCORED_AT_ONCE])
            tokens_BCL = self.trie.leaf_tokens[chunk_BC.clamp(min=0).to(self.trie.token.device)]
            scores_BC = score_items(
                self.recommender.model, self.encoded, self.start_token, tokens_BCL, legal=legal
            )
            parts.append(scores_BC.cpu().numpy())
        return np.concatenate(parts, axis=1)


class Ranker:
    """A recommender ready to rank: its model on the device, its tries built."""

    def __init__(
        self,
        recommender: Recommender,
        *,
        device: "torch.device | str",
        batch_size: int,
        renormalise: bool = False,
    ) -> None:
        from macrec.trie import Trie

        self.recommender, self.device = recommender, device
        self.batch_size, self.renormalise = batch_size, renormalise
        recommender.model.to(device)  # pyright: ignore[reportArgumentType]
        self.tries: dict[Modality, Trie] = {}
        for modality in recommender.modalities:
            codes_NL = recommender.codes_NL(modality)
            present_N = has_code(codes_NL)
            tokens_NL = np.full(codes_NL.shape, -1, np.int64)
            tokens_NL[present_N] = recommender.vocabulary.tokens(modality, codes_NL[present_N])
            self.tries[modality] = Trie.build(tokens_NL, device)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that can be searched."""
        return tuple(self.tries)

    def candidates(
        self, histories: Histories, beams: int, progress: Progress | None = None
    ) -> Candidates:
        """Search every modality, and score every item found under each."""
        parts: list[Candidates] = []
        for users_B, scorers in self._batches(histories, self.modalities):
            part = candidates_of_batch(scorers, beams)
            parts.append(part._replace(user_P=users_B[part.user_P]))
            if progress:
                progress.advance(len(users_B))
        return joined(parts, len(histories))

    def search(
        self,
        histories: Histories,
        modality: Modality,
        beams: int,
        top_k: int,
        progress: Progress | None = None,
    ) -> Lists:
        """The lists of one modality alone."""
        users, items, scores = [], [], []
        for users_B, scorers in self._batches(histories, (modality,)):
            leaf_BW, score_BW = scorers[modality].search(beams)
            pair = items_of(self.tries[modality], leaf_BW)
            users.append(users_B[pair.user_P])
            items.append(pair.item_P)
            scores.append(score_BW[pair.user_P, pair.beam_P])
            if progress:
                progress.advance(len(users_B))
        columns = [np.concatenate(parts) for parts in (users, items, scores)]
        return top_lists(*columns, users=len(histories), top_k=top_k)

    def _batches(
        self, histories: Histories, modalities: Sequence[Modality]
    ) -> Iterator[tuple[IntArray, dict[Modality, CodeScorer]]]:
        """Users of like length together, each batch with the scorers of its sources."""
        import torch

        from macrec.decode import encode

        cut = [np.asarray(h, np.int64)[-self.recommender.max_history :] for h in histories]
        assert all(len(history) for history in cut), "a user without history"
        bounds = np.zeros(len(cut) + 1, np.int64)
        np.cumsum([len(history) for history in cut], out=bounds[1:])
        items_K = np.concatenate([np.zeros(0, np.int64), *cut])
        streams: dict[Modality, TokenStream] = {
            modality: token_stream(
                self.recommender.vocabulary,
                modality,
                self.recommender.codes_NL(modality)[items_K],
                np.arange(len(items_K)),
            )
            for modality in modalities
        }
        lengths_U = sum(source_lengths(s, bounds[:-1], bounds[1:]) for s in streams.values())
        order = np.argsort(lengths_U, kind="stable")
        for start in range(0, len(order), self.batch_size):
            users_B = order[start : start + self.batch_size]
            scorers: dict[Modality, CodeScorer] = {}
            for modality, stream in streams.items():
                source_BS = gather_sources(stream, bounds[users_B], bounds[users_B + 1])
                ids_BS = torch.from_numpy(source_BS).to(self.device)
                scorers[modality] = GeneratorScorer(
                    self.recommender,
                    self.tries[modality],
                    encode(self.recommender.model, ids_BS),
                    SEQUENCE_TASK[modality],
                    self.renormalise,
                )
            yield users_B, scorers


def rank_users(
    recommender: Recommender,
    histories: Histories,
    *,
    beams: int = 20,
    top_k: int = 20,
    fusion_weight: float = 0.5,
    batch_size: int = 64,
    device: "torch.device | str" = "cpu",
    renormalise: bool = False,
    progress: Progress | None = None,
) -> RankedLists:
    """Rank the whole catalogue for every user by text, by image, and by both.

    Args:
        recommender: its model is put into evaluation mode for the time of the call.
        histories: item indices in time order, one array per user, none empty.
        beams: codes that each search keeps.
        top_k: length of the lists; a tie at the last place is kept whole.
        fusion_weight: weight of the text score, 0..1; the image score has the rest.
        batch_size: users decoded at once.
        device: where the model decodes.
        renormalise: take each softmax over the legal codes only (see `macrec.decode`).
        progress: advanced by the users done.
    """
    training = recommender.model.training
    recommender.model.eval()
    try:
        ranker = Ranker(recommender, device=device, batch_size=batch_size, renormalise=renormalise)
        candidates = ranker.candidates(histories, beams, progress)
    finally:
        recommender.model.train(training)
    text, image = (listed(candidates, modality, top_k) for modality in MODALITIES)
    return RankedLists(*text, *image, *fuse(candidates, fusion_weight, top_k))
