"""Chooses how lists are made: as the evaluation chose, or as the settings state."""

from typing import NamedTuple

from components.recommend.spec import EVALUATED, Settings
from macrec.compute.device import Precision
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.ranking.fusion import Weights
from macrec.ranking.neighbour_mix import Mix


class Rule(NamedTuple):
    """The rule by which lists are made."""

    weights: Weights
    renormalise: bool
    drop_seen: bool
    precision: Precision
    mix: Mix
    """How the item neighbours are computed."""


def choose_rule(config: Settings, predictions: Artifact) -> Rule:
    """Return the rule from the settings, and from evaluate where they leave it open.

    Raises:
        UserError: the predictions do not state what was chosen.
    """
    # defaults for predictions written before these settings existed
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
