"""Declares the settings, inputs and outputs of the stage resolve_collisions."""

from dataclasses import dataclass, replace

from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.settings import settings_class
from macrec.core.stage import Pool, Stage


@settings_class
class Settings:
    """Settings that determine the result; there are none beside the codes and codebooks."""


@settings_class
class Execution:
    """Settings that affect only the speed; this stage has none."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The artifacts that the stage reads."""

    items: Artifact
    """The catalogue. Its item ids break ties."""
    latents: Artifact
    """Latents and codes of the items, from quantize."""
    quantizer: Artifact
    """The quantizer whose codebooks gave the codes."""
    previous_semantic_ids: Source | None = None
    """Semantic IDs of the earlier run; only for a frozen quantizer."""
    previous_latents: Source | None = None
    """Latents of the earlier run; only for a frozen quantizer."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    semantic_ids: DatasetOutput
    """One row per item with its unique text codes and image codes."""


def used_inputs(config: Settings, inputs: Inputs) -> Inputs:
    """Return the inputs without the earlier run unless the latents are marked as frozen."""
    if inputs.latents.metadata.get("frozen"):
        return inputs
    return replace(inputs, previous_semantic_ids=None, previous_latents=None)


STAGE = Stage(
    name="resolve_collisions",
    summary="Give every item a semantic ID of its own.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    used_inputs=used_inputs,
)
