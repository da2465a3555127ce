"""What the stage encode_items is: its settings, inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What becomes of items that have changed or that lack a modality."""

    changed: Literal["recode", "keep"] = "recode"
    """An old item whose content now calls for other codes: "recode" gives it a new ID, since one
    that tells of something else misleads in every history that holds it. "keep" leaves its ID, for
    a recommender that is not trained again."""
    tolerance: float = 0.05
    """How far a latent may move, as a share of the spread of the previous latents, without
    counting as changed: vectors computed anew on another device differ a little."""
    max_changed: float = 0.5
    """Highest share of changed ones among the old items of a modality. Above it not the items have
    changed but the encoder or its settings, and the run fails; 1 = off."""
    missing_modality: Literal["keep", "fail"] = "keep"
    """An item without text or without picture: "keep" gives it codes in the other modality alone,
    "fail" ends the run. An item with neither always does."""

    def __post_init__(self) -> None:
        bad = [] if self.tolerance >= 0 else ["tolerance is negative"]
        bad += [] if 0 <= self.max_changed <= 1 else ["max_changed is outside 0..1"]
        check(not bad, f"encode_items: {'; '.join(bad)}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The new catalogue, and the version before: of quantize and resolve_collisions, or of this
    stage."""

    items: Artifact
    """The new catalogue; items are those of the version before by their ids."""
    text_embeddings: Artifact
    """Text vectors of the new catalogue, from the encoder of the earlier run."""
    image_embeddings: Artifact
    """Image vectors of the new catalogue, from the encoder of the earlier run."""
    previous_semantic_ids: Artifact
    """The IDs of the version before."""
    previous_latents: Artifact
    """Latents and nearest codes of the version before."""
    quantizer: Artifact
    """The quantizer that made them."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The next version."""

    semantic_ids: DatasetOutput
    """One row per item of the new catalogue: its unique text codes and image codes."""
    latents: DatasetOutput
    """The latents on which the IDs rest, and their nearest codes, collisions included."""


STAGE = Stage(
    name="encode_items",
    summary="Give semantic IDs to new and changed items with the quantizer of an earlier run.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
