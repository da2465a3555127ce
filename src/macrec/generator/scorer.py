"""Score codes with the recommender's model, for one batch of users.

Shapes: B users, W beams, C codes of a user, L levels.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from macrec.generator.beam_search import beam_search, score_items
from macrec.generator.decoder import EncodedSources
from macrec.generator.exhaustive import best_codes
from macrec.generator.hidden import HiddenNodes
from macrec.generator.model import Recommender
from macrec.generator.tokens import Modality, has_code
from macrec.generator.trie import Trie

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

ITEMS_AT_ONCE: Final = 2**20
"""Items whose tokens are in memory as 64-bit integers at once."""


@dataclass(frozen=True, kw_only=True)
class GeneratorScorer:
    """A CodeScorer that uses the recommender's model, for the first `users` encoded sources."""

    trie: Trie
    encoded: EncodedSources
    start_token: int
    users: int
    renormalise: bool
    exhaustive: bool
    hidden: HiddenNodes | None

    def search(self, beams: int) -> tuple[IntArray, FloatArray]:
        # A search with a beam for every code is a search of the whole catalogue.
        whole = self.exhaustive or beams >= self.trie.leaves
        search = best_codes if whole else beam_search
        found = search(
            self.encoded,
            self.start_token,
            self.trie,
            beams,
            renormalise=self.renormalise,
            hidden=self.hidden,
        )
        leaf_BW, score_BW = (part[: self.users].cpu().numpy() for part in found)
        return leaf_BW, score_BW

    def score(self, leaf_BC: IntArray) -> FloatArray:

        asked_BC = np.full((self.encoded.users, leaf_BC.shape[1]), -1, np.int64)
        asked_BC[: self.users] = leaf_BC
        place_BC = torch.from_numpy(asked_BC).to(self.trie.token.device)
        tokens_BCL = self.trie.leaf_tokens[place_BC.clamp(min=0)]
        tokens_BCL[place_BC < 0] = -1
        scores_BC = score_items(
            self.encoded,
            self.start_token,
            tokens_BCL,
            legal=self.trie if self.renormalise else None,
            hidden=self.hidden,
        )
        return scores_BC[: self.users].cpu().numpy()


def code_trie(
    recommender: Recommender, modality: Modality, device: torch.device | str = "cpu"
) -> Trie:
    """Return the trie of all items that have a code in the modality."""
    codes_NL = recommender.codes_NL(modality)
    tokens_NL = np.full(codes_NL.shape, -1, np.int32)
    for start in range(0, len(codes_NL), ITEMS_AT_ONCE):
        part = slice(start, start + ITEMS_AT_ONCE)
        present_N = has_code(codes_NL[part])
        tokens = recommender.vocabulary.tokens(modality, codes_NL[part][present_N])
        tokens_NL[part][present_N] = tokens
    return Trie.build(tokens_NL, device)
