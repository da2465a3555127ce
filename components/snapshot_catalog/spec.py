"""What the stage snapshot_catalog is: its settings, inputs and outputs."""

from dataclasses import dataclass

from macrec.core.artifact import ParameterOutput, Source
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Nothing to configure."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Nothing to tune."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything from outside; an empty URI has an empty digest."""

    items: Source
    """Catalogue: CSV, JSONL or Parquet; a file or a folder."""
    interactions: Source
    """Interaction log: CSV, JSONL or Parquet; a file or a folder."""
    images: Source | None = None
    """Folder of the pictures that the catalogue names."""
    text_model: Source | None = None
    """Text encoder."""
    image_model: Source | None = None
    """Image encoder."""
    text_embeddings: Source | None = None
    """Given text vectors instead of an encoder."""
    image_embeddings: Source | None = None
    """Given image vectors instead of an encoder."""
    users: Source | None = None
    """List of the users to recommend for, instead of all."""
    allowed_items: Source | None = None
    """List of the items that may be recommended, instead of all."""
    previous_semantic_ids: Source | None = None
    """Semantic IDs of an earlier run, to which the report compares those of this one."""
    previous_latents: Source | None = None
    """Latents of that run; quantizer_mode=frozen needs them."""
    previous_quantizer: Source | None = None
    """Quantizer of that run; quantizer_mode=frozen needs it."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """One digest per input."""

    items_digest: ParameterOutput
    """Digest of the catalogue."""
    interactions_digest: ParameterOutput
    """Digest of the log."""
    images_digest: ParameterOutput
    """Digest of the pictures."""
    text_model_digest: ParameterOutput
    """Digest of the text encoder."""
    image_model_digest: ParameterOutput
    """Digest of the image encoder."""
    text_embeddings_digest: ParameterOutput
    """Digest of the given text vectors."""
    image_embeddings_digest: ParameterOutput
    """Digest of the given image vectors."""
    users_digest: ParameterOutput
    """Digest of the list of users."""
    allowed_items_digest: ParameterOutput
    """Digest of the list of items."""
    previous_semantic_ids_digest: ParameterOutput
    """Digest of the semantic IDs of an earlier run."""
    previous_latents_digest: ParameterOutput
    """Digest of the latents of an earlier run."""
    previous_quantizer_digest: ParameterOutput
    """Digest of the quantizer of an earlier run."""


STAGE = Stage(
    name="snapshot_catalog",
    summary="Compute a digest of everything that the run reads from outside.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    reusable=False,
)
