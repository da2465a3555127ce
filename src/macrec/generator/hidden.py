"""Nodes of a trie that must not be recommended to a user.

Shapes: B users, C nodes to check, H hidden nodes of a user.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]


class HiddenNodes(NamedTuple):
    """Nodes that must not be recommended to a user, including all nodes below them."""

    node_LBH: tuple[torch.Tensor, ...]
    """int64 per depth 1..L, ascending, padded with numbers larger than every node."""

    def covers(self, node_BC: torch.Tensor, depth: int) -> torch.Tensor:
        """Return which of the nodes [B, C] at `depth` are hidden."""
        node_BH = self.node_LBH[depth - 1]
        if not node_BH.shape[1]:
            return torch.zeros_like(node_BC, dtype=torch.bool)
        place_BC = torch.searchsorted(node_BH, node_BC).clamp_(max=node_BH.shape[1] - 1)
        return node_BH.gather(1, place_BC) == node_BC


def find_full_parents(
    user: IntArray, parent: npt.NDArray[np.integer], bounds: npt.NDArray[np.integer]
) -> tuple[IntArray, IntArray]:
    """Return the sorted (user, parent) pairs that occur once for every child of the parent.

    The children of parent p are bounds[p] .. bounds[p + 1] - 1.
    """
    key, times = np.unique(user * len(bounds) + parent, return_counts=True)
    users, parents = np.divmod(key, len(bounds))
    whole = times == bounds[parents + 1] - bounds[parents]
    return users[whole], parents[whole]


def group_by_user(user: IntArray, node: IntArray, users: int, padding: int) -> IntArray:
    """Arrange pairs sorted by user and node as a padded array of nodes [B, H]."""
    count_B = np.bincount(user, minlength=users)
    node_BH = np.full((users, int(count_B.max(initial=0))), padding, np.int64)
    node_BH[user, np.arange(len(user)) - (np.cumsum(count_B) - count_B)[user]] = node
    return node_BH
