"""The trie of legal codes, which constrained decoding traverses.

Shapes: N items, R items with a code, L levels, B users, W nodes of a user, C children of all nodes
of a user, P (user, item) pairs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from macrec.core.errors import check
from macrec.generator.hidden import HiddenNodes, find_full_parents, group_by_user
from macrec.generator.sorted_codes import sorted_rows
from macrec.generator.tokens import PAD

Int32Array = npt.NDArray[np.int32]
IntegerArray = npt.NDArray[np.integer]

TRIE_FILE: Final = "trie.json"
FORMAT: Final = 1
SMALL_TOKENS: Final = 2**15
"""Tokens below this are stored in 16 bits."""


class Children(NamedTuple):
    """The children of all nodes of each user, padded with other existing nodes."""

    child_BC: torch.Tensor
    """int64, nodes of the next depth."""
    parent_BC: torch.Tensor
    """int64, index of the parent among the W given nodes."""
    exists_BC: torch.Tensor


@dataclass(frozen=True, eq=False)
class Trie:
    """The legal token sequences as flat arrays.

    Nodes are numbered level by level, and siblings are sorted. Node 0 is the root. The children of
    node n are first_child[n] .. first_child[n + 1] - 1. The nodes of the last level are the leaves.
    They are the distinct codes, numbered from 0 in lexicographic order. Items may share a leaf.
    """

    first_child: torch.Tensor
    """int32 [inner nodes + 1]."""
    token: torch.Tensor
    """int16 or int32 [nodes], the token on the edge to the node; PAD for the root."""
    leaf_tokens: torch.Tensor
    """int16 or int32 [leaves, L]."""
    leaf_of_item_N: Int32Array
    """Leaf of every item, -1 for an item without a code."""
    items: Int32Array
    """Items sorted by leaf, then by index."""
    first_item: Int32Array
    """[leaves + 1]; the items of leaf f are items[first_item[f] : first_item[f + 1]]."""
    depth_start: tuple[int, ...]
    """First node of each depth 0..L, then the number of nodes."""
    token_range_L: tuple[tuple[int, int], ...]
    """Smallest token of each depth 1..L, and the largest plus one."""
    _most: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def build(cls, tokens_NL: IntegerArray, device: torch.device | str = "cpu") -> "Trie":
        """Build the trie of token rows [N, L], without rows of -1 (items without a code)."""
        levels = tokens_NL.shape[1]
        order, shared_R = sorted_rows(tokens_NL)
        small = tokens_NL.max(initial=0) < SMALL_TOKENS
        kind = np.dtype(np.int16 if small else np.int32)
        rows_L = [np.flatnonzero(shared_R <= level).astype(np.int32) for level in range(levels)]
        first_child = [np.zeros(1, np.int32)]
        for level in range(1, levels):
            # The first child of a prefix is the longer prefix that begins at the same row.
            child_R = np.cumsum(shared_R <= level, dtype=np.int32) - 1
            first_child.append(child_R[rows_L[level - 1]])
        leaf_of_item_N = np.full(len(tokens_NL), -1, np.int32)
        leaf_of_item_N[order] = np.cumsum(shared_R < levels, dtype=np.int32) - 1
        return _assemble(
            first_child,
            [tokens_NL[order[rows_L[level]], level].astype(kind) for level in range(levels)],
            tokens_NL[order[rows_L[-1]]].astype(kind),
            leaf_of_item_N,
            order,
            np.append(rows_L[-1], np.int32(len(order))),
            device,
        )

    @property
    def levels(self) -> int:
        """Number of tokens of a code, L."""
        return self.leaf_tokens.shape[1]

    @property
    def leaves(self) -> int:
        """Number of distinct codes."""
        return self.leaf_tokens.shape[0]

    @property
    def bytes(self) -> int:
        """Total size of the arrays in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def restrict(self, allowed_N: npt.NDArray[np.bool_]) -> "Trie":
        """Return the trie of the allowed items only; item indices do not change.

        This does not need a sort.
        """
        kept = self.items[allowed_N[self.items]]
        leaf_R = self.leaf_of_item_N[kept]
        keep = np.zeros(self.leaves, bool)
        keep[leaf_R] = True
        leaf_of_item_N = np.full(len(self.leaf_of_item_N), -1, np.int32)
        leaf_of_item_N[kept] = (np.cumsum(keep, dtype=np.int32) - 1)[leaf_R]
        first_item = np.append(np.flatnonzero(np.diff(leaf_R, prepend=-1)), len(kept))
        host = self._arrays()
        leaf_tokens = host["leaf_tokens"][keep]
        token, first_child = [], []
        for depth in reversed(range(self.levels)):
            here, below, end = self.depth_start[depth : depth + 3]
            token.insert(0, host["token"][below:end][keep])
            before = np.zeros(len(keep) + 1, np.int32)
            np.cumsum(keep, out=before[1:])
            bounds = before[host["first_child"][here : below + 1] - below]
            # The root stays, even if the trie becomes empty.
            keep = np.diff(bounds) > 0 if depth else np.ones(1, bool)
            first_child.insert(0, bounds[:-1][keep])
        return _assemble(
            first_child,
            token,
            leaf_tokens,
            leaf_of_item_N,
            kept,
            first_item.astype(np.int32),
            self.token.device,
        )

    def children(
        self,
        node_BW: torch.Tensor,
        alive_BW: torch.Tensor,
        width: int | None = None,
    ) -> Children:
        """Return the children of the nodes [B, W], which must have one depth.

        Nodes that are not alive have no children. C is `width` (see `most_children`), or the
        largest number of children of a user.
        """
        first_BW = self.first_child[node_BW].long()
        count_BW = (self.first_child[node_BW + 1] - first_BW).masked_fill_(~alive_BW, 0)
        end_BW = count_BW.cumsum(dim=1)
        if width is None:
            width = int(end_BW[:, -1].max())
        column_BC = torch.arange(max(width, 1), device=node_BW.device).repeat(len(node_BW), 1)
        parent_BC = torch.searchsorted(end_BW, column_BC, right=True)
        parent_BC.clamp_(max=node_BW.shape[1] - 1)
        exists_BC = column_BC < end_BW[:, -1:]
        within_BC = column_BC - (end_BW - count_BW).gather(1, parent_BC)
        child_BC = first_BW.gather(1, parent_BC) + within_BC.masked_fill_(~exists_BC, 0)
        return Children(child_BC, parent_BC, exists_BC)

    def most_children(self, depth: int, nodes: int) -> int:
        """Return the largest total number of children of any `nodes` nodes at `depth`."""
        if (depth, nodes) not in self._most:
            here, below = self.depth_start[depth : depth + 2]
            count = self.first_child[here : below + 1].diff()
            most = count.topk(min(nodes, len(count)), sorted=False).values.sum()
            self._most[depth, nodes] = int(most)
        return self._most[depth, nodes]

    def hidden(self, user_P: IntegerArray, item_P: IntegerArray, users: int) -> HiddenNodes:
        """Return the nodes to hide: a user's pairs contain all items below them.

        A leaf with one item from the user's pairs and another item is not hidden.
        """
        items = len(self.leaf_of_item_N)
        user, item = np.divmod(np.unique(user_P.astype(np.int64) * items + item_P), items)
        leaf = self.leaf_of_item_N[item]
        user, node = find_full_parents(user[leaf >= 0], leaf[leaf >= 0], self.first_item)
        node += self.depth_start[-2]
        node_LBH: list[torch.Tensor] = []
        for depth in reversed(range(self.levels)):
            node_BH = group_by_user(user, node, users, padding=self.depth_start[-1])
            node_LBH.insert(0, torch.from_numpy(node_BH).to(self.token.device))
            here, below = self.depth_start[depth : depth + 2]
            bounds = self._first_child[here : below + 1]
            parent = np.searchsorted(bounds, node, side="right") - 1
            user, node = find_full_parents(user, parent, bounds)
            node += here
        return HiddenNodes(tuple(node_LBH))

    @cached_property
    def _first_child(self) -> Int32Array:
        return self.first_child.cpu().numpy()

    def _arrays(self) -> dict[str, npt.NDArray[np.integer]]:
        """Return all arrays in host memory; on the CPU they share memory with the tensors."""
        tensors = {name: getattr(self, name) for name in ("first_child", "token", "leaf_tokens")}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {
            name: getattr(self, name) for name in ("leaf_of_item_N", "items", "first_item")
        }

    def save(self, folder: Path) -> None:
        """Write the folder that `load` reads: one .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._arrays().items():
            np.save(folder / f"{name}.npy", array)
        described = {
            "format": FORMAT,
            "depth_start": self.depth_start,
            "token_range_L": self.token_range_L,
        }
        (folder / TRIE_FILE).write_text(json.dumps(described) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Trie":
        """Load a trie that `save` wrote; on the CPU its arrays are memory-mapped from disk."""
        check((folder / TRIE_FILE).is_file(), f"{folder}: not a trie, {TRIE_FILE} is missing")
        described = json.loads((folder / TRIE_FILE).read_text(encoding="utf-8"))
        check(
            described.get("format") == FORMAT,
            f"{folder}/{TRIE_FILE}: format {described.get('format')!r}, "
            f"this version reads {FORMAT}; build the trie again",
        )

        def mapped(name: str) -> npt.NDArray[Any]:
            # copy on write, because torch does not accept read-only arrays
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c"))

        return cls(
            first_child=torch.from_numpy(mapped("first_child")).to(device),
            token=torch.from_numpy(mapped("token")).to(device),
            leaf_tokens=torch.from_numpy(mapped("leaf_tokens")).to(device),
            leaf_of_item_N=mapped("leaf_of_item_N"),
            items=mapped("items"),
            first_item=mapped("first_item"),
            depth_start=tuple(described["depth_start"]),
            token_range_L=tuple((low, high) for low, high in described["token_range_L"]),
        )


def _assemble(
    first_child: Sequence[Int32Array],
    token: Sequence[IntegerArray],
    leaf_tokens: IntegerArray,
    leaf_of_item_N: Int32Array,
    items: Int32Array,
    first_item: Int32Array,
    device: torch.device | str,
) -> Trie:
    """Join arrays per depth into a trie; `first_child` counts from the next depth's first node."""
    start = np.cumsum([0, 1, *(len(part) for part in token)])
    assert start[-1] < 2**31
    bounds = [part + np.int32(below) for part, below in zip(first_child, start[1:], strict=False)]
    root = np.array([PAD], leaf_tokens.dtype)
    return Trie(
        first_child=torch.from_numpy(np.concatenate([*bounds, start[-1:].astype(np.int32)])).to(
            device
        ),
        token=torch.from_numpy(np.concatenate([root, *token])).to(device),
        leaf_tokens=torch.from_numpy(leaf_tokens).to(device),
        leaf_of_item_N=leaf_of_item_N,
        items=items,
        first_item=first_item,
        depth_start=tuple(start.tolist()),
        token_range_L=tuple((int(part.min()), int(part.max()) + 1) for part in token if len(part)),
    )
