"""Mix item neighbours of several kinds.

A user's neighbours are a mixture of three kinds, weighted by their shares. Co-occurring items
occurred near the items of the user's history (`macrec.ranking.neighbours`). Successors came after
them (the same module, with directed counts). Look-alikes have similar latents
(`macrec.ranking.look_alikes`).
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences
from macrec.ranking.look_alikes import look_alikes
from macrec.ranking.neighbours import Counts, MixedNeighbours, Neighbours


class Mix(NamedTuple):
    """Settings of the neighbours; the best ones depend on the data set (docs/experiments.md)."""

    asymmetry: float = 0.5
    """Asymmetry a of the counted neighbours: co-occurring items and successors."""
    look_alikes: float = 0.0
    """Share of look-alikes among all neighbours."""
    successors: float = 0.0
    """Share of successors among the counted neighbours."""

    def stated(self) -> dict[str, float]:
        """Return the settings under the names used in predictions and recommendations."""
        return {
            "neighbour_asymmetry": self.asymmetry,
            "look_alikes": self.look_alikes,
            "successors": self.successors,
        }

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> "Mix":
        """Create a mix from settings that `stated` returned."""
        return cls(*(float(stated[name]) for name in cls().stated()))


def mixed_neighbours(
    histories: Sequences, items: int, latents: Artifact, mixes: Collection[Mix]
) -> dict[Mix, MixedNeighbours]:
    """Return the neighbours of each mix, in sorted order.

    If no item has a latent, there are no look-alikes. The returned mixes then have a share of 0
    look-alikes, and the counted neighbours have the whole weight.
    """
    alike = look_alikes(latents) if any(mix.look_alikes for mix in mixes) else None
    if alike is None:
        mixes = [mix._replace(look_alikes=0.0) for mix in mixes]
    asymmetries = sorted({mix.asymmetry for mix in mixes})
    near = _counted(Counts.of(histories, items), asymmetries)
    after: dict[float, Neighbours] = {}
    if any(mix.successors for mix in mixes):
        after = _counted(Counts.of_successors(histories, items), asymmetries)
    found = {}
    for mix in sorted(set(mixes)):
        counted = 1 - mix.look_alikes
        parts = [
            (counted * (1 - mix.successors), near[mix.asymmetry]),
            (counted * mix.successors, after.get(mix.asymmetry)),
            (mix.look_alikes, alike),
        ]
        found[mix] = MixedNeighbours([(share, kind) for share, kind in parts if kind is not None])
    return found


def _counted(counts: Counts, asymmetries: Collection[float]) -> dict[float, Neighbours]:
    return {a: Neighbours.counted(counts, a) for a in asymmetries}
