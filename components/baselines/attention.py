"""Building blocks that the attention models share.

Shape suffixes: B rows, S positions, T memory tokens, D width, H heads.
"""

import torch
from torch import nn
from torch.nn import functional

from components.baselines.model_settings import AttentionConfig


class Memory(nn.Module):
    """Cross-attention from the positions to a memory of other tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ask = nn.Linear(width, width)
        self.project = nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x_BSD: torch.Tensor, memory_BTD: torch.Tensor, seen_BST: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention output, which the caller adds to the positions, [B, S, D].

        `seen_BST` is the attention mask. It must allow at least one memory token per position.
        """
        (query,) = split(self.ask(x_BSD), 1, self.heads)
        key, value = split(self.project(memory_BTD), 2, self.heads)
        found = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            seen_BST[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.drop(self.merge(found.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """A Transformer block: self-attention and a feed-forward layer, each with a residual connection
    and layer normalisation."""

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float, activation: nn.Module, pre: bool
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.pre = heads, dropout, pre
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), activation, nn.Dropout(dropout), nn.Linear(inner, width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BSD: torch.Tensor, seen_BSS: torch.Tensor | None) -> torch.Tensor:
        """Apply the block. Without a mask `seen_BSS`, attention is causal."""
        return self.fed(self.attended(x_BSD, seen_BSS))

    def attended(self, x_BSD: torch.Tensor, seen_BSS: torch.Tensor | None) -> torch.Tensor:
        """Apply the first half of the block, the self-attention."""
        norm = self.norms[0]
        if self.pre:
            return x_BSD + self.drop(self._attention(norm(x_BSD), seen_BSS))
        return norm(x_BSD + self.drop(self._attention(x_BSD, seen_BSS)))

    def fed(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Apply the second half of the block, the feed-forward layer."""
        norm = self.norms[1]
        if self.pre:
            return x_BSD + self.drop(self.feed(norm(x_BSD)))
        return norm(x_BSD + self.drop(self.feed(x_BSD)))

    def _attention(self, x_BSD: torch.Tensor, seen_BSS: torch.Tensor | None) -> torch.Tensor:
        query, key, value = split(self.project(x_BSD), 3, self.heads)
        found = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            None if seen_BSS is None else seen_BSS[:, None],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=seen_BSS is None,
        )
        return self.merge(found.transpose(1, 2).flatten(2))


def split(x_BSD: torch.Tensor, parts: int, heads: int) -> torch.Tensor:
    """Split concatenated projections by part and head, [parts, B, H, S, D / H].

    The parts are queries, keys or values, concatenated along the last axis of the input.
    """
    batch, places, width = x_BSD.shape
    by_head = x_BSD.view(batch, places, parts, heads, width // (parts * heads))
    return by_head.permute(2, 0, 3, 1, 4)


class Encoder(nn.Module):
    """The encoder of SASRec: position embeddings, dropout, pre-norm blocks and a final layer
    normalisation."""

    def __init__(self, places: int, config: AttentionConfig) -> None:
        super().__init__()
        self.last = places - 1
        self.position = nn.Embedding(places, config.width)
        self.drop = nn.Dropout(config.dropout)
        shape = (config.width, config.heads, config.inner, config.dropout)
        blocks = [Block(*shape, nn.ReLU(), pre=True) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, x_BSD: torch.Tensor, length_B: torch.Tensor, seen_BSS: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the hidden states, [B, S, D].

        Padding is at the end of a row. With causal attention no real position attends to it.
        """
        x_BSD = self.drop(
            x_BSD + self.position(distance_from_end(length_B, x_BSD.shape[1], self.last))
        )
        for block in self.blocks:
            x_BSD = block(x_BSD, seen_BSS)
        return self.norm(x_BSD)


def start_small(module: nn.Module) -> None:
    """Initialise weights with standard deviation 0.02 and biases with 0.

    BERT4Rec (section 3.6) truncates the normal distribution at this value.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def distance_from_end(length_B: torch.Tensor, places: int, last: int) -> torch.Tensor:
    """Return the distance of each position from the end of its row, clipped to `last`, [B, S].

    The last item of a history has position 0 regardless of the length of the history. Left padding
    has the same effect in the papers.
    """
    back_BS = length_B[:, None] - 1 - torch.arange(places, device=length_B.device)
    return back_BS.clamp(0, last)


def bidirectional_mask(length_B: torch.Tensor, places: int) -> torch.Tensor:
    """Return a bidirectional attention mask that excludes padding, [B, S, S]."""
    real_BS = torch.arange(places, device=length_B.device) < length_B[:, None]
    return real_BS[:, None].expand(-1, places, -1)


def last_state(state_BSD: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
    """Return the state at the last position of each row that is not padding, [B, D]."""
    return state_BSD[torch.arange(len(length_B), device=length_B.device), length_B - 1]
