"""The blocks that the attention models share.

Shape suffixes: B rows, S places, T places of a memory, D width, H heads.
"""

import torch
from torch import nn
from torch.nn import functional

from components.baselines.settings import AttentionConfig


class Memory(nn.Module):
    """Attention to other tokens than the places themselves, with a residual."""

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
        """What is added to the places; `seen_BST` leaves each of them one token at least."""
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
    """Self-attention and a feed-forward layer, each with a residual and a normalisation."""

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
        """Without `seen_BSS` a place sees itself and those before it."""
        return self.fed(self.attended(x_BSD, seen_BSS))

    def attended(self, x_BSD: torch.Tensor, seen_BSS: torch.Tensor | None) -> torch.Tensor:
        """The first half: self-attention."""
        norm = self.norms[0]
        if self.pre:
            return x_BSD + self.drop(self._attention(norm(x_BSD), seen_BSS))
        return norm(x_BSD + self.drop(self._attention(x_BSD, seen_BSS)))

    def fed(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """The second half: the feed-forward layer."""
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
    """Queries, keys or values by head, [parts, B, H, S, D / H], from all of them in a row."""
    batch, places, width = x_BSD.shape
    by_head = x_BSD.view(batch, places, parts, heads, width // (parts * heads))
    return by_head.permute(2, 0, 3, 1, 4)


class Encoder(nn.Module):
    """Positions, dropout, blocks on normalised input, a last normalisation (SASRec)."""

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
        """States [B, S, D]; padding stands at the end, where no place of a causal row sees it."""
        x_BSD = self.drop(x_BSD + self.position(from_end(length_B, x_BSD.shape[1], self.last)))
        for block in self.blocks:
            x_BSD = block(x_BSD, seen_BSS)
        return self.norm(x_BSD)


def start_small(module: nn.Module) -> None:
    """Weights of standard deviation 0.02, biases 0 (BERT4Rec section 3.6 truncates at that)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def from_end(length_B: torch.Tensor, places: int, last: int) -> torch.Tensor:
    """How many places before the end of its row each place is, [B, S]; at most `last`.

    A history's last item has position 0 whatever its length, as the padding in front gives it in
    the papers.
    """
    back_BS = length_B[:, None] - 1 - torch.arange(places, device=length_B.device)
    return back_BS.clamp(0, last)


def both_ways(length_B: torch.Tensor, places: int) -> torch.Tensor:
    """A mask in which every place sees all that are no padding, [B, S, S]."""
    real_BS = torch.arange(places, device=length_B.device) < length_B[:, None]
    return real_BS[:, None].expand(-1, places, -1)


def last_of(state_BSD: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
    """The states at the last places that are no padding, [B, D]."""
    return state_BSD[torch.arange(len(length_B), device=length_B.device), length_B - 1]
