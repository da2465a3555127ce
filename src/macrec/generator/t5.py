"""T5's equations, applied to the weights of a transformers model, for training and decoding.

Shapes: B rows, S source length, T decoder positions, G blocks of L positions, P cached positions,
D model width, H heads, E width of a head, F feed-forward width, V vocabulary.

This module replaces transformers' own forward pass, which is slower. Both compute the same: tests
compare losses and gradients in float64. Transformers projects queries, keys and values separately.
It projects the encoder's keys and values layer by layer and repeats them for every beam. On a CPU,
its dropout kernel costs more than the adjacent matrix products (benchmarks/speed/train_speed.py).

The residual stream is float32. `dtype` is the type of matrix products and of the values between
them.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import T5ForConditionalGeneration

from macrec.generator.tokens import PAD, source_mask

HALVES = (torch.bfloat16, torch.float16)
BITS = 16
"""Random bits per value, so a dropout rate is accurate to 1 / 65,536."""


class AttentionWeights(NamedTuple):
    """Weights of a self-attention; `into` is q, k and v stacked [3HE, D]."""

    norm_D: Tensor
    into: Tensor
    out: Tensor


class CrossWeights(NamedTuple):
    """Weights of a cross-attention; those of its keys and values are in `Weights.memory`."""

    norm_D: Tensor
    query: Tensor
    out: Tensor


class FeedForwardWeights(NamedTuple):
    """Weights of a feed-forward layer."""

    norm_D: Tensor
    into_FD: Tensor
    out_DF: Tensor


class Layer(NamedTuple):
    """Weights of a block; an encoder block has no `cross`."""

    own: AttentionWeights
    cross: CrossWeights | None
    wide: FeedForwardWeights


class Weights(NamedTuple):
    """The weights of a model in the dtype of its matrix products, joined where used together.

    Gradients reach the model through these weights. After an optimizer step, create them again.
    """

    embedding_VD: Tensor
    encoder: list[Layer]
    decoder: list[Layer]
    memory: Tensor
    """Projections to the source's keys and values, for all decoder layers [layers * 2HE, D]."""
    encoder_bias: Tensor
    """Relative position bias by distance bucket and head."""
    decoder_bias: Tensor
    encoder_norm_D: Tensor
    decoder_norm_D: Tensor
    head_VD: Tensor
    """Projection to the logits, including T5's scaling of the last state."""
    heads: int
    epsilon: float
    buckets: int
    farthest: int
    causal_encoder: bool
    """Whether source tokens cannot attend to later tokens."""
    tokens_per_position: int
    """Source tokens per encoder position: 1, or the L tokens of an item."""
    dtype: torch.dtype


def read_weights(model: T5ForConditionalGeneration, dtype: torch.dtype | None = None) -> Weights:
    """Return the weights of a T5 model with ReLU feed-forward layers (T5 v1.0, as `build_model`).

    Args:
        model: the model; it is not changed.
        dtype: type of the matrix products; None uses the type of the weights.
    """
    config = model.config
    assert config.feed_forward_proj == "relu", f"T5 with {config.feed_forward_proj} layers"
    dtype = dtype or model.shared.weight.dtype
    encoder, decoder = (list[Any](stack.block) for stack in (model.encoder, model.decoder))

    def joined(*parts: Any) -> Tensor:
        return torch.cat([part.weight for part in parts]).to(dtype)

    def layer(block: Any) -> Layer:
        own, wide = block.layer[0], block.layer[-1]
        attention, dense = own.SelfAttention, wide.DenseReluDense
        cross = None
        if len(block.layer) == 3:
            over = block.layer[1].EncDecAttention
            cross = CrossWeights(block.layer[1].layer_norm.weight, joined(over.q), joined(over.o))
        return Layer(
            AttentionWeights(
                own.layer_norm.weight,
                joined(attention.q, attention.k, attention.v),
                joined(attention.o),
            ),
            cross,
            FeedForwardWeights(wide.layer_norm.weight, joined(dense.wi), joined(dense.wo)),
        )

    over = [block.layer[1].EncDecAttention for block in decoder]
    scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    head = model.lm_head.weight * config.d_model**-0.5 if scaled else model.lm_head.weight
    return Weights(
        embedding_VD=model.shared.weight,
        encoder=[layer(block) for block in encoder],
        decoder=[layer(block) for block in decoder],
        memory=joined(*(part for attention in over for part in (attention.k, attention.v))),
        encoder_bias=encoder[0].layer[0].SelfAttention.relative_attention_bias.weight,
        decoder_bias=decoder[0].layer[0].SelfAttention.relative_attention_bias.weight,
        encoder_norm_D=model.encoder.final_layer_norm.weight,
        decoder_norm_D=model.decoder.final_layer_norm.weight,
        head_VD=head.to(dtype),
        heads=config.num_heads,
        epsilon=config.layer_norm_epsilon,
        buckets=config.relative_attention_num_buckets,
        farthest=config.relative_attention_max_distance,
        causal_encoder=getattr(config, "causal_encoder", False),
        tokens_per_position=getattr(config, "tokens_per_position", 1),
        dtype=dtype,
    )


class _DropoutFunction(torch.autograd.Function):
    """Compute x * keep * scale; keep is bool."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * scale).mul_(keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradients[0] * ctx.scale).mul_(keep), None, None


class _ReluDropoutFunction(torch.autograd.Function):
    """Compute relu(x) * keep in place; the gradient passes only where the result is above 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor) -> Tensor:
        x.relu_().mul_(keep)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradients[0], y, 0), None


class Dropout:
    """Dropout with a given rate; 0 in evaluation.

    On a CPU, torch draws one random number per value, whereas here 64 random bits serve four
    values. The bits come from torch's generator, so its state is all that a checkpoint needs.
    """

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self._dropped = round(rate * 2**BITS)

    @property
    def scale(self) -> float:
        """Factor of the values that are not dropped."""
        return 1 / (1 - self._dropped / 2**BITS)

    def _keep(self, x: Tensor) -> Tensor:
        words = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64)
        bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()]
        return (bits >= self._dropped - 2 ** (BITS - 1)).view(x.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x with a share `rate` of its values set to 0 and the others scaled."""
        if not self.rate:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        return _DropoutFunction.apply(x, self._keep(x), self.scale)  # pyright: ignore[reportReturnType]

    def relu(self, x: Tensor) -> tuple[Tensor, float]:
        """Return relu(x) with dropout and the factor it must still be multiplied by.

        x is overwritten.
        """
        if not self.rate:
            return x.relu_(), 1.0
        if x.device.type != "cpu":
            return F.dropout(x.relu_(), self.rate), 1.0
        return _ReluDropoutFunction.apply(x, self._keep(x)), self.scale  # pyright: ignore[reportReturnType]


NO_DROPOUT = Dropout()


def rms_norm(x: Tensor, weight_D: Tensor, weights: Weights) -> Tensor:
    """Apply T5's layer norm (RMS norm); the result has the dtype of the matrix products."""
    return F.rms_norm(x, weight_D.shape, weight_D, weights.epsilon).to(weights.dtype)


def distance_bias(
    table: Tensor, weights: Weights, past: int, length: int, *, causal: bool
) -> Tensor:
    """Return the relative position bias [H, T, P + T] of T queries after P earlier positions.

    With `causal`, as in the decoder, later positions get -inf.
    """
    distance = torch.arange(past + length) - torch.arange(past, past + length)[:, None]
    buckets, offset = weights.buckets, torch.zeros_like(distance)
    if causal:
        far = -distance.clamp(max=0)
    else:
        buckets //= 2
        offset, far = (distance > 0) * buckets, distance.abs()
    exact = buckets // 2
    # Use float32 and exactly these operations: other rounding would move the bucket edges.
    share = torch.log(far.float() / exact) / torch.log(torch.tensor(weights.farthest / exact))
    wide = exact + (share * (buckets - exact)).long()
    bucket = offset + torch.where(far < exact, far, wide.clamp(max=buckets - 1))
    bias = table[bucket.to(table.device)].permute(2, 0, 1)
    return bias.masked_fill((distance > 0).to(bias.device), -torch.inf) if causal else bias


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, drop: Dropout = NO_DROPOUT
) -> Tensor:
    """Compute attention [..., T, E] without scaling, as in T5; `bias` is added to the scores.

    On a CPU the fused kernel takes twice as long as two products in bfloat16, and it supports only
    torch's dropout. The softmax is float32 or wider in both cases.
    """
    if query.device.type != "cpu" or not (drop.rate or query.dtype in HALVES):
        rate = drop.rate
        return F.scaled_dot_product_attention(query, key, value, bias, dropout_p=rate, scale=1.0)
    weight = torch.softmax(_wide(query @ key.transpose(-1, -2)) + bias, dim=-1)
    return drop(weight.to(value.dtype)) @ value


def _wide(x: Tensor) -> Tensor:
    """Return x as float32, or unchanged if it is float32 or wider."""
    return x.float() if x.dtype in HALVES else x


def split_heads(x: Tensor, parts: int, weights: Weights) -> tuple[Tensor, ...]:
    """Split a product [B, T, parts * H * E] into `parts` tensors [B, H, T, E]."""
    split = x.view(*x.shape[:-1], parts, weights.heads, -1)
    return split.permute(-3, 0, -2, 1, -1).unbind()


def merge_heads(x: Tensor) -> Tensor:
    """Merge the heads: reshape [B, H, T, E] to [B, T, HE]."""
    return x.transpose(-2, -3).flatten(-2)


def feed_forward(
    x: Tensor, layer: FeedForwardWeights, weights: Weights, drop: Dropout = NO_DROPOUT
) -> Tensor:
    """Return x plus the result of the feed-forward layer."""
    wide, scale = drop.relu(F.linear(rms_norm(x, layer.norm_D, weights), layer.into_FD))
    return x + drop(F.linear(wide, layer.out_DF * scale))


def embed(weights: Weights, source_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings of source ids [B, S, D], and which positions are read [B, S].

    If several tokens form a position, S shrinks by that factor. The embedding of the position is
    the sum of its tokens' embeddings, divided by the root of their number. So it is about as large
    as the embedding of one token.
    """
    count = weights.tokens_per_position
    if count == 1:
        mask_BS = source_mask(source_BS, weights.causal_encoder)
        return F.embedding(source_BS, weights.embedding_VD), mask_BS
    token_BSL = F.pad(source_BS, (0, -source_BS.shape[1] % count), value=PAD)
    token_BSL = token_BSL.unflatten(1, (-1, count))
    x_BSLD = F.embedding(token_BSL, weights.embedding_VD) * (token_BSL != PAD).unsqueeze(-1)
    return x_BSLD.sum(2) * count**-0.5, source_mask(token_BSL[:, :, 0], weights.causal_encoder)


def encode(
    weights: Weights, source_BS: Tensor, drop: Dropout = NO_DROPOUT
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the encoder over source ids.

    Returns:
        The encoder's states [B, S, D], which positions are read [B, S], and the padding as a bias
        [B, 1, 1, S]. S is that of `embed`.
    """
    x_BSD, mask_BS = embed(weights, source_BS)
    encoded_BSD, padding = encode_embedded(weights, x_BSD, mask_BS, drop)
    return encoded_BSD, mask_BS, padding


def encode_embedded(
    weights: Weights, x_BSD: Tensor, mask_BS: Tensor, drop: Dropout = NO_DROPOUT
) -> tuple[Tensor, Tensor]:
    """Run the encoder over embeddings of source ids.

    Returns:
        The encoder's states [B, S, D], and the padding as a bias [B, 1, 1, S].
    """
    x = drop(x_BSD)
    padding = torch.zeros_like(mask_BS, dtype=weights.dtype).masked_fill_(~mask_BS, -torch.inf)
    padding = padding[:, None, None, :]
    bias = distance_bias(weights.encoder_bias, weights, 0, mask_BS.shape[1], causal=False)
    bias = bias.to(weights.dtype) + padding
    if weights.causal_encoder:
        ahead_SS = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu_(1)
        bias = bias.masked_fill(ahead_SS, -torch.inf)
    for layer in weights.encoder:
        own = layer.own
        into = F.linear(rms_norm(x, own.norm_D, weights), own.into)
        query, key, value = split_heads(into, 3, weights)
        mixed = merge_heads(attend(query, key, value, bias, drop))
        x = x + drop(F.linear(mixed, own.out))
        x = feed_forward(x, layer.wide, weights, drop)
    return drop(F.rms_norm(x, x.shape[-1:], weights.encoder_norm_D, weights.epsilon)), padding


def memory(weights: Weights, encoded_BSD: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the source's keys and values [B, H, S, E] for each decoder layer."""
    parts = split_heads(
        F.linear(encoded_BSD.to(weights.dtype), weights.memory), 2 * len(weights.decoder), weights
    )
    return list(zip(parts[::2], parts[1::2], strict=True))


def decode_blocks(
    weights: Weights,
    sources: list[tuple[Tensor, Tensor]],
    padding: Tensor,
    decoder_BGL: Tensor,
    drop: Dropout = NO_DROPOUT,
) -> Tensor:
    """Return the logits [B, G, L, V] of G targets per source; targets do not attend to each other.

    Args:
        weights: weights of the model.
        sources: keys and values of the sources (`memory`).
        padding: padding of the sources as a bias (`encode`).
        decoder_BGL: decoder input tokens.
        drop: dropout, in training.
    """
    rows, blocks, levels = decoder_BGL.shape
    x = drop(F.embedding(decoder_BGL, weights.embedding_VD).flatten(0, 1))  # [BG, L, D]
    bias = distance_bias(weights.decoder_bias, weights, 0, levels, causal=True).to(weights.dtype)
    for layer, (key, value) in zip(weights.decoder, sources, strict=True):
        own, cross = layer.own, layer.cross
        assert cross is not None
        into = F.linear(rms_norm(x, own.norm_D, weights), own.into)
        mixed = merge_heads(attend(*split_heads(into, 3, weights), bias, drop))
        x = x + drop(F.linear(mixed, own.out))
        # All blocks of a row are queries of one attention over the row's source.
        query = F.linear(rms_norm(x, cross.norm_D, weights), cross.query)
        (query,) = split_heads(query.view(rows, blocks * levels, -1), 1, weights)
        mixed = merge_heads(attend(query, key, value, padding, drop)).view(
            rows * blocks, levels, -1
        )
        x = x + drop(F.linear(mixed, cross.out))
        x = feed_forward(x, layer.wide, weights, drop)
    return logits(weights, x, drop).view(rows, blocks, levels, -1)


def logits(weights: Weights, state: Tensor, drop: Dropout = NO_DROPOUT) -> Tensor:
    """Return logits [..., V], float32 or wider, of the decoder's last states [..., D]."""
    last = drop(rms_norm(state, weights.decoder_norm_D, weights))
    return _wide(F.linear(last, weights.head_VD))
