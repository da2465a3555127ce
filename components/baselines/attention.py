"""The blocks that the attention models share.

Shape suffixes: B rows, S places, D width, H heads.
"""

import torch
from torch import nn
from torch.nn import functional


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
        first, second = self.norms
        if self.pre:
            x_BSD = x_BSD + self.drop(self._attended(first(x_BSD), seen_BSS))
            return x_BSD + self.drop(self.feed(second(x_BSD)))
        x_BSD = first(x_BSD + self.drop(self._attended(x_BSD, seen_BSS)))
        return second(x_BSD + self.drop(self.feed(x_BSD)))

    def _attended(self, x_BSD: torch.Tensor, seen_BSS: torch.Tensor | None) -> torch.Tensor:
        batch, places, width = x_BSD.shape
        parts = self.project(x_BSD).view(batch, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            None if seen_BSS is None else seen_BSS[:, None],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=seen_BSS is None,
        )
        return self.merge(found.transpose(1, 2).reshape(batch, places, width))


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
