"""Constrained decoding: beam search over a trie of codes, and teacher forcing of candidates.

Shapes: B users, W beams or candidates, T decoder positions, P cached positions, S source length,
L levels, K children of a node, V vocabulary, N items, D model width, H heads, E width of a head.

The score of an item is the sum over its L tokens of the log-probability under the model's softmax
over the WHOLE vocabulary: what is illegal is masked after the softmax, so the scores of a
catalogue sum to at most one in probability. `renormalise=True` takes each softmax over the legal
children of the prefix instead; then they sum to exactly one.

The decoder is run layer by layer on the weights of transformers' T5: the keys and values of a
source are computed once per user and shared by all its beams, which `generate` would repeat.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from macrec.generator import PAD
from macrec.trie import Trie

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

CATALOGUE_CHUNK = 512
"""Codes that `score_catalogue` scores at once; bounds its memory."""


class Encoded(NamedTuple):
    """Sources as the decoder reads them: keys and values per layer, and the padding as a bias."""

    key_BHSE: list[torch.Tensor]
    value_BHSE: list[torch.Tensor]
    bias_B11S: torch.Tensor

    @property
    def users(self) -> int:
        """B"""
        return self.bias_B11S.shape[0]


class Beams(NamedTuple):
    """The best leaves of each user, best first; leaf -1 and score -inf where there are fewer."""

    leaf_BW: torch.Tensor
    score_BW: torch.Tensor


_Cache = list[tuple[torch.Tensor, torch.Tensor]]  # per layer: keys and values [B, W, H, P, E]


def _blocks(model: "T5ForConditionalGeneration") -> list[Any]:
    return list(model.decoder.block)  # T5Block, whose parts have no static types


@torch.inference_mode()
def encode(model: "T5ForConditionalGeneration", source_BS: torch.Tensor) -> Encoded:
    """Run the encoder over source ids [B, S] (PAD after the end). The model is in eval mode."""
    assert not model.training, "decoding a model in training mode: dropout would be active"
    mask_BS = source_BS != PAD
    state_BSD = model.encoder(input_ids=source_BS, attention_mask=mask_BS).last_hidden_state
    keys, values = [], []
    for block in _blocks(model):
        attention = block.layer[1].EncDecAttention
        shape = (*source_BS.shape, attention.n_heads, attention.key_value_proj_dim)
        keys.append(attention.k(state_BSD).view(shape).transpose(1, 2))
        values.append(attention.v(state_BSD).view(shape).transpose(1, 2))
    bias_BS = torch.zeros_like(mask_BS, dtype=state_BSD.dtype).masked_fill_(~mask_BS, -torch.inf)
    return Encoded(keys, values, bias_BS[:, None, None, :])


def _self_bias(model: "T5ForConditionalGeneration", past: int, length: int) -> torch.Tensor:
    """Relative position bias [H, T, P + T] of the decoder, -inf on later positions."""
    attention = _blocks(model)[0].layer[0].SelfAttention
    device = attention.relative_attention_bias.weight.device
    query_T1 = torch.arange(past, past + length, device=device)[:, None]
    distance = torch.arange(past + length, device=device)[None, :] - query_T1
    bucket = attention._relative_position_bucket(
        distance,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias = attention.relative_attention_bias(bucket).permute(2, 0, 1)
    return bias.masked_fill(distance > 0, -torch.inf)


def _logits(
    model: "T5ForConditionalGeneration", encoded: Encoded, token_BWT: torch.Tensor, cache: _Cache
) -> tuple[torch.Tensor, _Cache]:
    """Logits [B, W, T, V] of decoder input tokens [B, W, T], and the cache with them added.

    `cache` is that of the positions before (an empty list for the first ones); each beam has its
    own. The beams of a user stand side by side as queries of one attention over its source.
    """
    past = cache[0][0].shape[3] if cache else 0
    bias = _self_bias(model, past, token_BWT.shape[2])
    state = model.decoder.embed_tokens(token_BWT)
    grown: _Cache = []
    for depth, block in enumerate(_blocks(model)):
        layer = block.layer[0]
        attention = layer.SelfAttention
        normed = layer.layer_norm(state)
        shape = (*token_BWT.shape, attention.n_heads, attention.key_value_proj_dim)
        query = attention.q(normed).view(shape).transpose(2, 3)
        key = attention.k(normed).view(shape).transpose(2, 3)
        value = attention.v(normed).view(shape).transpose(2, 3)
        if cache:
            key = torch.cat([cache[depth][0], key], dim=3)
            value = torch.cat([cache[depth][1], value], dim=3)
        grown.append((key, value))
        weight = torch.softmax(query @ key.transpose(3, 4) + bias, dim=-1)
        state = state + attention.o((weight @ value).transpose(2, 3).flatten(3))
        state = state + _cross_attention(block.layer[1], state, encoded, depth)
        state = block.layer[2](state)
    state = model.decoder.final_layer_norm(state)
    config = model.config
    if getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
        state = state * model.model_dim**-0.5
    return model.lm_head(state).float(), grown


def _cross_attention(
    layer: Any, state_BWTD: torch.Tensor, encoded: Encoded, depth: int
) -> torch.Tensor:
    attention = layer.EncDecAttention
    users, beams, length, _ = state_BWTD.shape
    shape = (users, beams * length, attention.n_heads, attention.key_value_proj_dim)
    query_BHQE = attention.q(layer.layer_norm(state_BWTD)).view(shape).transpose(1, 2)
    # T5 does not scale its dot products
    mixed_BHQE = functional.scaled_dot_product_attention(
        query_BHQE,
        encoded.key_BHSE[depth],
        encoded.value_BHSE[depth],
        attn_mask=encoded.bias_B11S,
        scale=1.0,
    )
    return attention.o(
        mixed_BHQE.transpose(1, 2).reshape(*state_BWTD.shape[:3], attention.inner_dim)
    )


def _child_scores(
    logits_BWV: torch.Tensor, trie: Trie, node_BW: torch.Tensor, depth: int, renormalise: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability [B, W, K] of the legal children, -inf where there is none; their nodes."""
    child_BWK, exists_BWK = trie.children(node_BW, depth)
    legal_BWK = logits_BWV.gather(-1, trie.token[child_BWK]).masked_fill_(~exists_BWK, -torch.inf)
    over = legal_BWK if renormalise else logits_BWV
    return legal_BWK - over.logsumexp(dim=-1, keepdim=True), child_BWK


@torch.inference_mode()
def beam_search(
    model: "T5ForConditionalGeneration",
    encoded: Encoded,
    start_token: int,
    trie: Trie,
    beams: int,
    *,
    renormalise: bool = False,
) -> Beams:
    """The `beams` best codes of the trie per user, as leaves; fewer if the trie has fewer.

    The first step has one beam, later ones as many as there are prefixes, up to `beams`.
    """
    users, device = encoded.users, encoded.bias_B11S.device
    node_BW = torch.zeros(users, 1, dtype=torch.int64, device=device)
    score_BW = torch.zeros(users, 1, device=device)
    if not trie.leaves:
        return Beams(node_BW[:, :0], score_BW[:, :0])
    token_BWT = torch.full((users, 1, 1), start_token, device=device)
    cache: _Cache = []
    for depth in range(trie.levels):
        logits, cache = _logits(model, encoded, token_BWT, cache)
        step_BWK, child_BWK = _child_scores(logits[:, :, -1], trie, node_BW, depth, renormalise)
        total_BC = (score_BW[:, :, None] + step_BWK).flatten(1)
        score_BW, choice_BW = total_BC.topk(min(beams, total_BC.shape[1]), dim=1)
        node_BW = child_BWK.flatten(1).gather(1, choice_BW)
        token_BWT = trie.token[node_BW].unsqueeze(-1)
        parent_BW = choice_BW // child_BWK.shape[2]
        if depth + 1 < trie.levels:
            cache = [(_of_beam(key, parent_BW), _of_beam(value, parent_BW)) for key, value in cache]
    leaf_BW = node_BW - (len(trie.token) - trie.leaves)
    return Beams(leaf_BW.masked_fill_(score_BW == -torch.inf, -1), score_BW)


def _of_beam(state_BWHPE: torch.Tensor, parent_BW: torch.Tensor) -> torch.Tensor:
    row_B1 = torch.arange(len(parent_BW), device=parent_BW.device)[:, None]
    return state_BWHPE[row_B1, parent_BW]


@torch.inference_mode()
def score_items(
    model: "T5ForConditionalGeneration",
    encoded: Encoded,
    start_token: int,
    item_tokens_BCL: torch.Tensor,
    *,
    legal: Trie | None = None,
) -> torch.Tensor:
    """Scores [B, C] of the given codes [B, C, L] by teacher forcing; -inf for rows of -1.

    With `legal`, each softmax is over the legal children in that trie; -inf for codes not in it.
    """
    users, candidates, levels = item_tokens_BCL.shape
    absent_BC = item_tokens_BCL[:, :, 0] < 0
    target_BCL = item_tokens_BCL.clamp(min=PAD)
    start = target_BCL.new_full((users, 1, 1), start_token)
    first_B11V, cache = _logits(model, encoded, start, [])  # the same for every candidate
    shared = [
        (key.expand(-1, candidates, -1, -1, -1), value.expand(-1, candidates, -1, -1, -1))
        for key, value in cache
    ]
    logits = [first_B11V.expand(-1, candidates, -1, -1)]
    if levels > 1:
        logits.append(_logits(model, encoded, target_BCL[:, :, :-1], shared)[0])
    score_BC = torch.zeros(users, candidates, device=target_BCL.device)
    node_BC = torch.zeros_like(target_BCL[:, :, 0])
    for depth in range(levels):
        logits_BCV = logits[min(depth, 1)][:, :, max(depth - 1, 0)]
        chosen_BC1 = target_BCL[:, :, depth, None]
        if legal is None:
            score_BC += logits_BCV.gather(-1, chosen_BC1)[..., 0] - logits_BCV.logsumexp(dim=-1)
        else:
            step_BCK, child_BCK = _child_scores(logits_BCV, legal, node_BC, depth, True)
            step_BCK.masked_fill_(legal.token[child_BCK] != chosen_BC1, -torch.inf)
            best_BC, which_BC = step_BCK.max(dim=-1)
            score_BC += best_BC
            node_BC = child_BCK.gather(-1, which_BC[..., None])[..., 0]
    return score_BC.masked_fill_(absent_BC, -torch.inf)


def score_catalogue(
    model: "T5ForConditionalGeneration",
    encoded: Encoded,
    start_token: int,
    trie: Trie,
    *,
    renormalise: bool = False,
) -> torch.Tensor:
    """Scores [B, leaves] of every code: the exhaustive answer that beam search approximates."""
    parts = [torch.empty(encoded.users, 0, device=encoded.bias_B11S.device)]
    for tokens_CL in trie.leaf_tokens.split(CATALOGUE_CHUNK):
        tokens_BCL = tokens_CL.expand(encoded.users, -1, -1)
        legal = trie if renormalise else None
        parts.append(score_items(model, encoded, start_token, tokens_BCL, legal=legal))
    return torch.cat(parts, dim=1)
