"""What the stage resolve_collisions is: its settings, inputs and outputs."""

from dataclasses import dataclass, replace

from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Nothing to configure: the codes and the codebooks decide."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Nothing to tune."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    items: Artifact
    """The catalogue; item ids break ties."""
    latents: Artifact
    """Latents and codes of the items, from quantize."""
    quantizer: Artifact
    """The quantizer whose codebooks gave the codes."""
    previous_semantic_ids: Source | None = None
    """Of a frozen quantizer: the semantic IDs of the earlier run."""
    previous_latents: Source | None = None
    """Of a frozen quantizer: the latents of the earlier run."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    semantic_ids: DatasetOutput
    """One row per item: its unique text codes and image codes."""


def used_inputs(config: Settings, inputs: Inputs) -> Inputs:
    """An earlier run counts only where quantize says that its quantizer is frozen."""
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
