"""How lists are made: what evaluate chooses, its predictions state, and recommend follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from macrec.compute.precision import Precision
from macrec.ranking.fusion import Weights
from macrec.ranking.neighbour_mix import Mix


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """The choices that change a user's list."""

    weights: Weights
    """Weights of the text score and of the item neighbours."""
    mix: Mix
    """How the item neighbours are computed."""
    renormalise: bool
    """Whether scores are probabilities among the legal codes instead of among all tokens."""
    drop_seen: bool
    """Whether lists omit the items that the user already has."""
    precision: Precision
    """Precision of the model's matrix products."""

    def metadata(self) -> dict[str, Any]:
        """Return the choices under the names that artifacts and the settings of recommend use."""
        return {
            "fusion_weight": self.weights.text,
            "neighbour_weight": self.weights.neighbours,
            **self.mix.metadata(),
            "renormalise": self.renormalise,
            "precision": self.precision,
            "seen_items": "drop" if self.drop_seen else "keep",
        }

    @classmethod
    def from_metadata(cls, stated: Mapping[str, Any]) -> "RankingOptions":
        """Return the choices that `metadata` returned, or settings of recommend with these names.

        Raises:
            KeyError: a choice is missing.
        """
        return cls(
            weights=Weights(float(stated["fusion_weight"]), float(stated["neighbour_weight"])),
            mix=Mix.from_metadata(stated),
            renormalise=stated["renormalise"] in (True, "on"),
            drop_seen=stated["seen_items"] == "drop",
            precision=stated["precision"],
        )
