"""Declares the settings, inputs and outputs of the stage encode_items."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat

from macrec.compute.device import Device
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.settings import Share, settings_class
from macrec.core.stage import Pool, Stage


@settings_class
class Settings:
    """Settings for items that have changed or that lack a modality."""

    changed: Literal["recode", "keep"] = "recode"
    """Policy for an old item whose content now calls for other codes. "recode" gives it a new ID,
    because an outdated ID misleads in every history that contains it. "keep" keeps its ID; use it
    if the recommender is not retrained."""
    tolerance: NonNegativeFloat = 0.05
    """Distance that a latent may move without the item counting as changed, as a share of the
    spread of the previous latents. It allows for vectors recomputed on another device."""
    max_changed: Share = 0.5
    """Maximum share (0 to 1) of changed items among a modality's old items. Above it the run fails,
    as the encoder or its settings have probably changed, not the items. 1 turns the check off."""
    missing_modality: Literal["keep", "fail"] = "keep"
    """Policy for an item without text or without an image. "keep" gives it codes in the other
    modality only; "fail" stops the run. An item with neither always stops the run."""


@settings_class
class Execution:
    """Settings that affect only the speed."""

    device: Device = "auto"
    """Device of the encoder: auto (a GPU if available, else the CPU), cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The new catalogue and the previous version.

    The previous version comes from quantize and resolve_collisions, or from this stage.
    """

    items: Artifact
    """The new catalogue. Items are matched to the previous version by item id."""
    text_embeddings: Artifact
    """Text vectors of the new catalogue, made by the encoder of the earlier run."""
    image_embeddings: Artifact
    """Image vectors of the new catalogue, made by the encoder of the earlier run."""
    previous_semantic_ids: Source
    """Semantic IDs of the previous version."""
    previous_latents: Source
    """Latents and nearest codes of the previous version."""
    previous_quantizer: Source
    """The quantizer that computed the previous version."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts of the next version."""

    semantic_ids: DatasetOutput
    """One row per item of the new catalogue with its unique text codes and image codes."""
    latents: DatasetOutput
    """The latents that the IDs are based on, and their nearest codes before collisions are
    resolved."""


STAGE = Stage(
    name="encode_items",
    summary="Give semantic IDs to new and changed items with the quantizer of an earlier run.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    everyday=("changed", "tolerance", "max_changed", "missing_modality"),
)
