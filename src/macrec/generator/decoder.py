"""T5's encoder over source sequences, and its decoder over the prefixes of their beams.

Shapes: B users, W beams, P decoder positions so far, S source length, V tokens, D model width,
H heads, E width of a head.

The keys and values of a source are computed once per user and shared by all beams of the user;
`generate` would repeat them. The prefixes of a user form a tree, whose keys and values never move.
A mask lets every position attend to the positions it follows. So nothing is copied when beams are
reordered.
"""

from typing import NamedTuple

import torch
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from macrec.generator import t5


class EncodedSources(NamedTuple):
    """Encoded sources for the decoder, and the decoder's weights."""

    weights: t5.Weights
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values [B, H, S, E] of each layer."""
    bias_B11S: torch.Tensor
    """Attention bias that masks the padding."""

    @property
    def users(self) -> int:
        """Number of users, B."""
        return self.bias_B11S.shape[0]


class DecoderCache(NamedTuple):
    """Decoder positions of all steps so far, in order; the last W are those of the newest step."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values [B, H, P, E] of each layer."""
    sees_BWP: torch.Tensor
    """Which positions each of the newest follows, itself included; [1, W, P] if equal for all
    users."""
    positions: tuple[int, ...]
    """Number of positions at each depth."""


@torch.inference_mode()
def encode(
    model: T5ForConditionalGeneration, source_BS: torch.Tensor, dtype: torch.dtype | None = None
) -> EncodedSources:
    """Run the encoder over source ids [B, S], padded with PAD. The model must be in eval mode.

    `dtype` is the type of the encoder's and decoder's matrix products; None uses the weights' type.
    """
    assert not model.training, "decoding a model in training mode: its weights may yet change"
    weights = t5.read_weights(model, dtype)
    state_BSD, _, bias_B11S = t5.encode(weights, source_BS)
    # Every step reads these tensors; if they were not contiguous, each product would copy them.
    sources = [
        (key.contiguous(), value.contiguous()) for key, value in t5.memory(weights, state_BSD)
    ]
    return EncodedSources(weights, sources, bias_B11S)


def decoder_states(
    encoded: EncodedSources,
    token_BW: torch.Tensor,
    past: DecoderCache | None = None,
    parent_BW: torch.Tensor | None = None,
) -> tuple[torch.Tensor, DecoderCache]:
    """Run the decoder over one more token of every beam and return its states [B, W, D].

    `parent_BW` [B, W], or [1, W] for all users, is the position of the last step that each token
    follows. The first step has neither `past` nor `parent_BW`.
    """
    device, width = token_BW.device, token_BW.shape[1]
    sees_BWP = torch.eye(width, dtype=torch.bool, device=device)[None]
    positions = (width,)
    if past is not None and parent_BW is not None:
        users, seen = len(parent_BW), past.sees_BWP.shape[2]
        row_BWP = parent_BW[..., None].expand(-1, -1, seen)
        before_BWP = past.sees_BWP.expand(users, -1, -1).gather(1, row_BWP)
        sees_BWP = torch.cat([before_BWP, sees_BWP.expand(users, -1, -1)], dim=2)
        positions = (*past.positions, width)
    weights, steps = encoded.weights, len(positions)
    bias_H1L = t5.distance_bias(weights.decoder_bias, weights, steps - 1, 1, causal=True)
    parts = zip(bias_H1L.unbind(dim=2), positions, strict=True)
    bias_H1P = torch.cat([bias_H1.expand(-1, count)[:, None] for bias_H1, count in parts], dim=2)
    bias_BHWP = torch.where(sees_BWP[:, None], bias_H1P.to(weights.dtype), -torch.inf)
    state = functional.embedding(token_BW, weights.embedding_VD)
    layers = []
    for depth, (layer, source) in enumerate(zip(weights.decoder, encoded.layers, strict=True)):
        own, cross = layer.own, layer.cross
        assert cross is not None
        into = functional.linear(t5.rms_norm(state, own.norm_D, weights), own.into)
        query, key, value = t5.split_heads(into, 3, weights)
        if past:
            key = torch.cat([past.layers[depth][0], key], dim=2)
            value = torch.cat([past.layers[depth][1], value], dim=2)
        layers.append((key, value))
        mixed = t5.merge_heads(t5.attend(query, key, value, bias_BHWP))
        state = state + functional.linear(mixed, own.out)
        into = functional.linear(t5.rms_norm(state, cross.norm_D, weights), cross.query)
        (query,) = t5.split_heads(into, 1, weights)
        mixed = t5.merge_heads(t5.attend(query, *source, encoded.bias_B11S))
        state = state + functional.linear(mixed, cross.out)
        state = t5.feed_forward(state, layer.wide, weights)
    return t5.rms_norm(state, weights.decoder_norm_D, weights), DecoderCache(
        layers, sees_BWP, positions
    )


def logits(encoded: EncodedSources, state_BWD: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Return the logits [B, W, V] of the tokens first..last (last excluded)."""
    return functional.linear(state_BWD, encoded.weights.head_VD[first:last]).float()
