"""Nodes of a trie that users shall not be shown.

Shapes: B users, C nodes asked about, H hidden nodes of a user.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]


class Hidden(NamedTuple):
    """Nodes that a user shall not be shown, with all beneath them."""

    node_LBH: tuple[torch.Tensor, ...]
    """int64 per depth 1..L, ascending, padded with numbers beyond every node"""

    def covers(self, node_BC: torch.Tensor, depth: int) -> torch.Tensor:
        """Which of the nodes [B, C] of `depth` are hidden."""
        node_BH = self.node_LBH[depth - 1]
        if not node_BH.shape[1]:
            return torch.zeros_like(node_BC, dtype=torch.bool)
        place_BC = torch.searchsorted(node_BH, node_BC).clamp_(max=node_BH.shape[1] - 1)
        return node_BH.gather(1, place_BC) == node_BC


def wholly(
    user: IntArray, parent: npt.NDArray[np.integer], bounds: npt.NDArray[np.integer]
) -> tuple[IntArray, IntArray]:
    """The (user, parent) pairs that are given as often as the parent has children, sorted.

    The children of parent p are bounds[p] .. bounds[p + 1] - 1.
    """
    key, times = np.unique(user * len(bounds) + parent, return_counts=True)
    users, parents = np.divmod(key, len(bounds))
    whole = times == bounds[parents + 1] - bounds[parents]
    return users[whole], parents[whole]


def by_user(user: IntArray, node: IntArray, users: int, padding: int) -> IntArray:
    """Nodes [B, H] of pairs sorted by user and node."""
    count_B = np.bincount(user, minlength=users)
    node_BH = np.full((users, int(count_B.max(initial=0))), padding, np.int64)
    node_BH[user, np.arange(len(user)) - (np.cumsum(count_B) - count_B)[user]] = node
    return node_BH
