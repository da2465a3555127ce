"""Chooses how lists are made: as the evaluation chose, or as the settings state."""

from components.recommend.spec import FROM_EVALUATE, Settings
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.ranking.ranking_options import RankingOptions


def choose_options(config: Settings, predictions: Artifact) -> RankingOptions:
    """Return the options from the settings, and from evaluate where they leave it open.

    Raises:
        UserError: the predictions do not state what was chosen.
    """
    names = ("fusion_weight", "neighbour_weight", "neighbour_asymmetry", "similar_item_share")
    names += ("successor_share", "renormalise", "precision", "seen_items")
    chosen = {name: getattr(config, name) for name in names}
    open_ones = [n for n, value in chosen.items() if value in (FROM_EVALUATE, "evaluated")]
    absent = [name for name in open_ones if name not in predictions.metadata]
    check(
        not absent,
        f"{predictions.path}: does not state {' and '.join(absent)}, so an older version wrote it. "
        f"Run evaluate again, or set {' and '.join(absent)}.",
    )
    return RankingOptions.from_metadata(
        chosen | {name: predictions.metadata[name] for name in open_ones}
    )
