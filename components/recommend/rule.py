"""How lists are made: as the evaluation chose it, or as the settings say."""

from typing import NamedTuple

from components.recommend.spec import EVALUATED, Settings
from macrec.compute.device import Precision
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.ranking.fusion import Weights
from macrec.ranking.neighbour_mix import Mix


class Rule(NamedTuple):
    """How lists are made."""

    weights: Weights
    renormalise: bool
    drop_seen: bool
    precision: Precision
    mix: Mix
    """How the neighbours are made."""


def choose_rule(config: Settings, predictions: Artifact) -> Rule:
    """What the configuration says, and for the rest what evaluate has chosen.

    Raises:
        UserError: the predictions do not say what was chosen.
    """
    # before there was a choice
    once = {"precision": "float32", **Mix().stated()}
    stated = {**once, **predictions.metadata}
    settings = (*once, "fusion_weight", "neighbour_weight", "renormalise", "seen_items")
    asked = [name for name in settings if getattr(config, name) in (EVALUATED, "evaluated")]
    absent = [name for name in asked if name not in stated]
    check(
        not absent,
        f"{predictions.path}: does not state {' and '.join(absent)}, so it is of an older version. "
        f"Run evaluate again, or set {' and '.join(absent)}.",
    )
    chosen = vars(config) | {name: stated[name] for name in asked}
    return Rule(
        weights=Weights(float(chosen["fusion_weight"]), float(chosen["neighbour_weight"])),
        renormalise=chosen["renormalise"] in (True, "on"),
        drop_seen=chosen["seen_items"] == "drop",
        precision=chosen["precision"],
        mix=Mix.of(chosen),
    )
