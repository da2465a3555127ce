"""The trie of legal codes, which constrained decoding walks down.

Shapes: N items, L levels, K children of a node.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from macrec.generator import PAD


@dataclass(frozen=True, eq=False)
class Trie:
    """The legal token sequences as flat arrays; nodes are numbered level by level, siblings sorted.

    Node 0 is the root. The children of node n are first_child[n] .. first_child[n + 1] - 1. The
    last level's nodes are the leaves: distinct codes, numbered from 0 in lexicographic order. Items
    may share a leaf.
    """

    first_child: torch.Tensor
    """int64 [inner nodes + 1]"""
    token: torch.Tensor
    """int64 [nodes], the token on the edge to the node; the root's is PAD"""
    most_children_L: tuple[int, ...]
    """Largest number of children of a node, per depth."""
    leaf_tokens: torch.Tensor
    """int64 [leaves, L]"""
    leaf_of_item_N: npt.NDArray[np.int64]
    """Leaf of every item, -1 for one without code."""
    items: npt.NDArray[np.int32]
    """Items sorted by leaf, then by index."""
    first_item: npt.NDArray[np.int64]
    """[leaves + 1]; the items of leaf f are items[first_item[f] : first_item[f + 1]]."""

    @classmethod
    def build(
        cls, tokens_NL: npt.NDArray[np.integer], device: "torch.device | str" = "cpu"
    ) -> "Trie":
        """The trie of token rows [N, L]; rows of -1 (items without code) are left out."""
        items, levels = tokens_NL.shape
        present = np.flatnonzero(tokens_NL[:, 0] >= 0)
        order = present[np.lexsort(tokens_NL[present].T[::-1])]
        rows = tokens_NL[order].astype(np.int64)
        # starts_NL[r, l]: row r is the first one of its prefix of l + 1 tokens
        starts_NL = np.ones(rows.shape, bool)
        if len(rows):
            np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1, out=starts_NL[1:])
        nodes_L = starts_NL.sum(axis=0)
        offset_L = 1 + np.cumsum(nodes_L) - nodes_L
        token = [np.array([PAD])] + [rows[starts_NL[:, d], d] for d in range(levels)]
        first_child = [offset_L[:1]]
        for depth in range(1, levels):
            child_R = offset_L[depth] + np.cumsum(starts_NL[:, depth]) - 1
            first_child.append(child_R[starts_NL[:, depth - 1]])
        first_child.append(offset_L[-1:] + nodes_L[-1])
        bounds = np.concatenate(first_child)
        inner_L = np.concatenate([[0], offset_L])  # first node of each depth
        most = [
            int(np.diff(bounds)[inner_L[d] : inner_L[d + 1]].max(initial=0)) for d in range(levels)
        ]
        leaf_R = np.cumsum(starts_NL[:, -1]) - 1
        leaf_of_item_N = np.full(items, -1, np.int64)
        leaf_of_item_N[order] = leaf_R
        return cls(
            first_child=torch.from_numpy(bounds).to(device),
            token=torch.from_numpy(np.concatenate(token)).to(device),
            most_children_L=tuple(most),
            leaf_tokens=torch.from_numpy(rows[starts_NL[:, -1]]).to(device),
            leaf_of_item_N=leaf_of_item_N,
            items=order.astype(np.int32),
            first_item=np.append(np.flatnonzero(starts_NL[:, -1]), len(order)),
        )

    @property
    def levels(self) -> int:
        """L, the tokens of a code."""
        return self.leaf_tokens.shape[1]

    @property
    def leaves(self) -> int:
        """Number of distinct codes."""
        return self.leaf_tokens.shape[0]

    def children(self, node: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Child nodes [..., K] of nodes [...] at `depth`, and which of them exist.

        Where there is none, the first child stands in: always a node of the next depth.
        """
        first = self.first_child[node].unsqueeze(-1)
        child = first + torch.arange(self.most_children_L[depth], device=node.device)
        exists = child < self.first_child[node + 1].unsqueeze(-1)
        return torch.where(exists, child, first), exists
