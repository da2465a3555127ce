"""Exhaustive decoding: the score of every code, which beam search approximates.

Shapes: B users, W nodes or codes, C children, F leaves, U users of all batches.
"""

from typing import Final, NamedTuple

import torch

from macrec.generator.beam_search import Beams, child_steps
from macrec.generator.decoder import DecoderCache, EncodedSources, decoder_states
from macrec.generator.hidden import HiddenNodes
from macrec.generator.trie import Trie

POSITIONS_AT_ONCE: Final = 2**12
"""Prefixes of all users that the decoder processes at once."""
NODES_AT_ONCE: Final = 2**5
"""Prefixes per user that the decoder processes at once; attention grows with their square."""


class _Piece(NamedTuple):
    """Adjacent nodes of one depth that are still to be decoded, with their scores and past."""

    depth: int
    first: int
    last: int
    score_BW: torch.Tensor
    past: DecoderCache | None
    """Decoder positions of the piece that contains their parents, and of its ancestors."""
    parent_1W: torch.Tensor | None


@torch.inference_mode()
def score_catalogue(
    encoded: EncodedSources,
    start_token: int,
    trie: Trie,
    *,
    renormalise: bool = False,
    hidden: HiddenNodes | None = None,
) -> torch.Tensor:
    """Return the scores [B, F] of every code, which beam search approximates.

    The trie is traversed from the root, and every prefix is decoded once, however many codes share
    it. Pieces of adjacent nodes are decoded depth first, which limits the memory.
    """
    users, device = encoded.users, encoded.bias_B11S.device
    score_BF = torch.full((users, trie.leaves), -torch.inf, device=device)
    if not score_BF.numel():
        return score_BF
    at_once = max(1, min(NODES_AT_ONCE, POSITIONS_AT_ONCE // users))
    pieces = [_Piece(0, 0, 1, torch.zeros(users, 1, device=device), None, None)]
    while pieces:
        depth, first, last, score_BW, past, parent_1W = pieces.pop()
        token_W = trie.token[first:last].long() if depth else torch.tensor([start_token])
        token_BW = token_W.to(device).expand(users, -1)
        state_BWD, past = decoder_states(encoded, token_BW, past, parent_1W)
        node_BW = torch.arange(first, last, device=device).expand(users, -1)
        below = [int(trie.first_child[node]) for node in (first, last)]
        all_BW = torch.ones_like(node_BW, dtype=torch.bool)
        width = below[1] - below[0]
        _, parent_BC, step_BC = child_steps(
            encoded, state_BWD, trie, node_BW, all_BW, depth, width, renormalise, hidden
        )
        total_BC = score_BW.gather(1, parent_BC) + step_BC
        if depth + 1 == trie.levels:
            score_BF[:, below[0] - trie.depth_start[-2] :][:, :width] = total_BC
            continue
        for start in range(0, width, at_once):
            part = slice(start, min(start + at_once, width))
            bounds = below[0] + part.start, below[0] + part.stop
            pieces.append(_Piece(depth + 1, *bounds, total_BC[:, part], past, parent_BC[:1, part]))
    return score_BF


def best_codes(
    encoded: EncodedSources,
    start_token: int,
    trie: Trie,
    codes: int,
    *,
    renormalise: bool = False,
    hidden: HiddenNodes | None = None,
) -> Beams:
    """Return the result that `beam_search` would give if it never dropped a prefix."""
    score_BF = score_catalogue(encoded, start_token, trie, renormalise=renormalise, hidden=hidden)
    score_BW, leaf_BW = score_BF.topk(min(codes, trie.leaves), dim=1)
    return Beams(leaf_BW.masked_fill_(score_BW == -torch.inf, -1), score_BW)
