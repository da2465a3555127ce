"""Constrained decoding: beam search over a trie of codes, and teacher forcing of candidates.

Shapes: B users, W beams or candidates, C children of all beams of a user, L levels, V tokens
(all tokens, or those of a level), D model width.

The score of an item is the sum over its L tokens of the log-probability under the model. The
softmax is over the WHOLE vocabulary, and illegal tokens are masked after it. So the probabilities
of a catalogue sum to at most one. With `renormalise=True`, each softmax is over the legal children
of the prefix, and they sum to exactly one. Codes that are `hidden` from a user are not legal for
that user.
"""

from typing import Final, NamedTuple

import torch
from torch.nn import functional

from macrec.generator.decoder import EncodedSources, decoder_states, logits
from macrec.generator.hidden import HiddenNodes
from macrec.generator.tokens import PAD
from macrec.generator.trie import Trie

LOGITS_AT_ONCE: Final = 2**23
"""Maximum number of logits in memory at once, unless a single user needs more."""
SCORED_AT_ONCE: Final = 64
"""Codes per user in one teacher-forced pass; limits its memory."""


class Beams(NamedTuple):
    """The best leaves of each user, best first; padded with leaf -1 and score -inf."""

    leaf_BW: torch.Tensor
    score_BW: torch.Tensor


class Steps(NamedTuple):
    """The children of each user's beams (see `trie.Children`) and their log-probabilities."""

    child_BC: torch.Tensor
    parent_BC: torch.Tensor
    score_BC: torch.Tensor
    """-inf where there is no legal child."""


def child_steps(
    encoded: EncodedSources,
    state_BWD: torch.Tensor,
    trie: Trie,
    node_BW: torch.Tensor,
    alive_BW: torch.Tensor,
    depth: int,
    width: int | None,
    renormalise: bool,
    hidden: HiddenNodes | None,
) -> Steps:
    """Return the children of nodes at `depth`, with their log-probabilities.

    The decoder states [B, W, D] are those of the nodes [B, W].
    """
    child_BC, parent_BC, legal_BC = trie.children(node_BW, alive_BW, width)
    if hidden:
        legal_BC = legal_BC & ~hidden.covers(child_BC, depth + 1)
    token_BC = trie.token[child_BC]
    if renormalise:
        logit_BC = _scores_at(encoded, state_BWD, parent_BC, token_BC, trie.token_range_L[depth])
        logit_BC.masked_fill_(~legal_BC, -torch.inf)
        total_BW = _grouped_logsumexp(logit_BC, parent_BC, node_BW.shape[1])
        score_BC = logit_BC - total_BW.gather(1, parent_BC)
    else:
        score_BC = _scores_at(encoded, state_BWD, parent_BC, token_BC)
    return Steps(child_BC, parent_BC, score_BC.masked_fill_(~legal_BC, -torch.inf))


def _shapes_are_fixed(node_BW: torch.Tensor) -> bool:
    """Return whether tensor shapes must not depend on data, as on an accelerator.

    Reading a size from the device would wait for it, and shapes would change between batches.
    """
    return not node_BW.is_cpu


def _scores_at(
    encoded: EncodedSources,
    state_BWD: torch.Tensor,
    beam_BC: torch.Tensor,
    token_BC: torch.Tensor,
    only: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Return the log-probabilities [B, C] of tokens after the given beams, some users at a time.

    If `only` is a range of tokens, compute logits for that range alone and return these instead.
    """
    first, last = only or (0, len(encoded.weights.head_VD))
    tokens = last - first
    users = max(1, LOGITS_AT_ONCE // (state_BWD.shape[1] * tokens))
    parts = []
    for start in range(0, len(state_BWD), users):
        part = slice(start, start + users)
        score_BWV = logits(encoded, state_BWD[part], first, last)
        if only is None:
            score_BWV = score_BWV.log_softmax(dim=-1)
        place_BC = beam_BC[part] * tokens + (token_BC[part] - first)
        parts.append(score_BWV.flatten(1).gather(1, place_BC))
    return torch.cat(parts) if parts else torch.zeros(beam_BC.shape, device=beam_BC.device)


def _grouped_logsumexp(logit_BC: torch.Tensor, group_BC: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the log-sum-exp [B, W] of each group's logits; -inf for an empty group."""
    none_BW = logit_BC.new_full((len(logit_BC), groups), -torch.inf)
    top_BW = none_BW.scatter_reduce(1, group_BC, logit_BC, "amax")
    top_BW = top_BW.masked_fill(top_BW == -torch.inf, 0.0)
    share_BC = (logit_BC - top_BW.gather(1, group_BC)).exp()
    return top_BW + torch.zeros_like(top_BW).scatter_add_(1, group_BC, share_BC).log()


@torch.inference_mode()
def beam_search(
    encoded: EncodedSources,
    start_token: int,
    trie: Trie,
    beams: int,
    *,
    renormalise: bool = False,
    hidden: HiddenNodes | None = None,
) -> Beams:
    """Return the `beams` best codes of the trie per user, as leaves; fewer if the trie has fewer.

    The first step has one beam. Later steps have one beam per prefix, up to `beams`.
    """
    users, device = encoded.users, encoded.bias_B11S.device
    node_BW = torch.zeros(users, 1, dtype=torch.int64, device=device)
    score_BW = torch.zeros(users, 1, device=device)
    if not trie.leaves:
        return Beams(node_BW[:, :0], score_BW[:, :0])
    token_BW = torch.full((users, 1), start_token, device=device)
    past, parent_BW = None, None
    for depth in range(trie.levels):
        state_BWD, past = decoder_states(encoded, token_BW, past, parent_BW)
        width = trie.most_children(depth, node_BW.shape[1]) if _shapes_are_fixed(node_BW) else None
        alive_BW = score_BW > -torch.inf
        child_BC, parent_BC, step_BC = child_steps(
            encoded, state_BWD, trie, node_BW, alive_BW, depth, width, renormalise, hidden
        )
        total_BC = score_BW.gather(1, parent_BC) + step_BC
        score_BW, choice_BW = total_BC.topk(min(beams, total_BC.shape[1]), dim=1)
        node_BW = child_BC.gather(1, choice_BW)
        parent_BW = parent_BC.gather(1, choice_BW)
        token_BW = trie.token[node_BW].long()
    leaf_BW = node_BW - trie.depth_start[-2]
    return Beams(leaf_BW.masked_fill_(score_BW == -torch.inf, -1), score_BW)


@torch.inference_mode()
def score_items(
    encoded: EncodedSources,
    start_token: int,
    item_tokens_BWL: torch.Tensor,
    *,
    legal: Trie | None = None,
    hidden: HiddenNodes | None = None,
) -> torch.Tensor:
    """Return the scores [B, W] of codes [B, W, L] by teacher forcing; -inf for rows of -1.

    A prefix shared by adjacent codes is decoded once, so codes in ascending order are fastest.
    With `legal`, each softmax is over the legal children in that trie. Codes outside the trie, and
    codes `hidden` from the user, score -inf.
    """
    parts = [
        _score_part(encoded, start_token, part_BWL.long(), legal, hidden)
        for part_BWL in item_tokens_BWL.split(SCORED_AT_ONCE, dim=1)
    ]
    return torch.cat(parts, dim=1)


def _score_part(
    encoded: EncodedSources,
    start_token: int,
    target_BWL: torch.Tensor,
    legal: Trie | None,
    hidden: HiddenNodes | None,
) -> torch.Tensor:
    users, candidates, levels = target_BWL.shape
    score_BW = torch.zeros(users, candidates, device=target_BWL.device)
    score_BW.masked_fill_(target_BWL[:, :, 0] < 0, -torch.inf)
    target_BWL = target_BWL.clamp(min=PAD)
    node_BW = torch.zeros_like(target_BWL[:, :, 0])
    token_BP = target_BWL.new_full((users, 1), start_token)
    place_BW, parent_BP, past = torch.zeros_like(node_BW), None, None
    for depth in range(levels):
        if depth:  # candidates with the same prefix write equal values
            before_BW, place_BW = place_BW, _prefix_places(target_BWL[:, :, :depth])
            prefixes = candidates if _shapes_are_fixed(node_BW) else int(place_BW.max()) + 1
            none_BP = target_BWL.new_zeros(users, prefixes)
            token_BP = none_BP.scatter(1, place_BW, target_BWL[:, :, depth - 1])
            parent_BP = none_BP.scatter(1, place_BW, before_BW)
        state_BPD, past = decoder_states(encoded, token_BP, past, parent_BP)
        target_BW = target_BWL[:, :, depth]
        if legal is None:
            score_BW += _scores_at(encoded, state_BPD, place_BW, target_BW)
        else:
            state_BWD = state_BPD.gather(1, place_BW[..., None].expand(-1, -1, state_BPD.shape[2]))
            step_BW, node_BW = _legal_steps(
                encoded, state_BWD, legal, node_BW, score_BW, target_BW, depth, hidden
            )
            score_BW += step_BW
    return score_BW


def _prefix_places(prefix_BWL: torch.Tensor) -> torch.Tensor:
    """Return a number [B, W], from 0, for the prefix of each candidate.

    Adjacent equal prefixes share a number. In ascending order, all equal prefixes are adjacent.
    """
    changed_BW = (prefix_BWL[:, 1:] != prefix_BWL[:, :-1]).any(dim=2)
    return functional.pad(changed_BW.cumsum(dim=1), (1, 0))


def _legal_steps(
    encoded: EncodedSources,
    state_BWD: torch.Tensor,
    legal: Trie,
    node_BW: torch.Tensor,
    score_BW: torch.Tensor,
    target_BW: torch.Tensor,
    depth: int,
    hidden: HiddenNodes | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities [B, W] of the targets among their nodes' children.

    Also return these children. A target that is not a child of its node gets -inf, and an
    arbitrary node of the next depth.
    """
    most = legal.most_children(depth, 1)  # candidates may share a node
    width = node_BW.shape[1] * most if _shapes_are_fixed(node_BW) else None
    alive_BW = score_BW > -torch.inf
    child_BC, parent_BC, step_BC = child_steps(
        encoded, state_BWD, legal, node_BW, alive_BW, depth, width, True, hidden
    )
    chosen_BC = legal.token[child_BC] == target_BW.gather(1, parent_BC)
    step_BC.masked_fill_(~chosen_BC, -torch.inf)
    none_BW = torch.full_like(score_BW, -torch.inf)
    some = legal.depth_start[depth + 1]
    reached_BC = child_BC.masked_fill(~chosen_BC, some)
    reached_BW = torch.full_like(node_BW, some).scatter_reduce(1, parent_BC, reached_BC, "amax")
    return none_BW.scatter_reduce(1, parent_BC, step_BC, "amax"), reached_BW
