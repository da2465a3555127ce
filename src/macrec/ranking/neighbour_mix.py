"""Mix item neighbours of several kinds.

A user's neighbours are a mixture of three kinds, weighted by their shares. Co-occurring items
occurred near the items of the user's history (`macrec.ranking.neighbours`). Successors came after
them (the same module, with directed counts). Look-alikes have similar latents
(`macrec.ranking.similar_items`).
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences
from macrec.ranking.neighbours import Counts, MixedNeighbours, Neighbours
from macrec.ranking.similar_items import similar_item_neighbours


class Mix(NamedTuple):
    """Settings of the neighbours; the best ones depend on the data set (docs/experiments.md)."""

    asymmetry: float = 0.5
    """Asymmetry a of the counted neighbours: co-occurring items and successors."""
    similar_item_share: float = 0.0
    """Share of look-alikes among all neighbours."""
    successor_share: float = 0.0
    """Share of successors among the counted neighbours."""

    def metadata(self) -> dict[str, float]:
        """Return the settings under the names used in predictions and recommendations."""
        return {
            "neighbour_asymmetry": self.asymmetry,
            "similar_item_share": self.similar_item_share,
            "successor_share": self.successor_share,
        }

    @classmethod
    def from_metadata(cls, stated: Mapping[str, Any]) -> "Mix":
        """Create a mix from settings that `stated` returned."""
        return cls(*(float(stated[name]) for name in cls().metadata()))


def mixed_neighbours(
    histories: Sequences, items: int, latents: Artifact, mixes: Collection[Mix]
) -> dict[Mix, MixedNeighbours]:
    """Return the neighbours of each mix, in sorted order.

    If no item has a latent, there are no look-alikes. The returned mixes then have a share of 0
    look-alikes, and the counted neighbours have the whole weight.
    """
    alike = (
        similar_item_neighbours(latents) if any(mix.similar_item_share for mix in mixes) else None
    )
    if alike is None:
        mixes = [mix._replace(similar_item_share=0.0) for mix in mixes]
    asymmetries = sorted({mix.asymmetry for mix in mixes})
    near = _from_counts(Counts.from_histories(histories, items), asymmetries)
    after: dict[float, Neighbours] = {}
    if any(mix.successor_share for mix in mixes):
        after = _from_counts(Counts.from_successors(histories, items), asymmetries)
    found = {}
    for mix in sorted(set(mixes)):
        counted = 1 - mix.similar_item_share
        parts = [
            (counted * (1 - mix.successor_share), near[mix.asymmetry]),
            (counted * mix.successor_share, after.get(mix.asymmetry)),
            (mix.similar_item_share, alike),
        ]
        found[mix] = MixedNeighbours([(share, kind) for share, kind in parts if kind is not None])
    return found


def _from_counts(counts: Counts, asymmetries: Collection[float]) -> dict[float, Neighbours]:
    return {a: Neighbours.from_counts(counts, a) for a in asymmetries}
