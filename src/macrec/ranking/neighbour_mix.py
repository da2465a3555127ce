"""How neighbours of several kinds are mixed.

A user's neighbours are a mixture of three kinds, each by its shares: what stood near the items of
his history (`macrec.ranking.neighbours`), what came after them (the same, by counts that have a
direction), and what looks like them (`macrec.ranking.look_alikes`).
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences
from macrec.ranking.look_alikes import look_alikes
from macrec.ranking.neighbours import Counts, MixedNeighbours, Neighbours


class Mix(NamedTuple):
    """How neighbours are made; what is best differs between data sets (docs/experiments.md)."""

    asymmetry: float = 0.5
    """a of those that are counted."""
    look_alikes: float = 0.0
    """Share of those that look alike, in all."""
    successors: float = 0.0
    """Share of those that came after, in those that are counted."""

    def stated(self) -> dict[str, float]:
        """As predictions and recommendations state it."""
        return {
            "neighbour_asymmetry": self.asymmetry,
            "look_alikes": self.look_alikes,
            "successors": self.successors,
        }

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> "Mix":
        """The one that is stated."""
        return cls(*(float(stated[name]) for name in cls().stated()))


def mixed_neighbours(
    histories: Sequences, items: int, latents: Artifact, mixes: Collection[Mix]
) -> dict[Mix, MixedNeighbours]:
    """Neighbours in each of the ways, in order.

    Where no item has a latent there are no look-alikes, and what is counted has the whole: the
    share of look-alikes is then 0 in what comes back.
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
