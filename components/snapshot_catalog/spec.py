"""Declares the settings, inputs and outputs of the stage snapshot_catalog."""

from dataclasses import dataclass

from macrec.core.artifact import ParameterOutput, Source
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that determine the result; this stage has none."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings that affect only the speed; this stage has none."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All external data of a run. An empty URI has an empty digest."""

    items: Source
    """The catalogue: CSV, JSON lines or Parquet; one file or a folder of files."""
    interactions: Source
    """The interaction log: CSV, JSON lines or Parquet; one file or a folder of files."""
    images: Source | None = None
    """Folder that contains the images, local or gs://; required if image_model is given. The
    catalogue gives each item's path below it."""
    text_model: Source | None = None
    """Text encoder: a transformers model folder, local or gs://, or a hub id name/model[@revision].
    Give text_model or text_embeddings, not both; leave both empty for a run on images alone."""
    image_model: Source | None = None
    """Image encoder: a vision transformer folder, local or gs://, or a hub id
    name/model[@revision]. Give image_model or image_embeddings, not both; leave both empty for a
    run on text alone."""
    text_embeddings: Source | None = None
    """Precomputed text vectors, used instead of a text encoder: Parquet with the columns item_id
    and embedding."""
    image_embeddings: Source | None = None
    """Precomputed image vectors, used instead of an image encoder: Parquet with the columns item_id
    and embedding."""
    users: Source | None = None
    """List of user ids to recommend for: Parquet, CSV or JSON lines with user_id, or text with one
    id per line. Empty: all users."""
    allowed_items: Source | None = None
    """List of item ids that may be recommended: Parquet, CSV or JSON lines with item_id, or text
    with one id per line. Empty: all items."""
    previous_semantic_ids: Source | None = None
    """Semantic IDs of an earlier run. The report compares the new IDs with them;
    quantizer_mode=frozen requires them."""
    previous_latents: Source | None = None
    """Latents of the earlier run. Only quantizer_mode=frozen reads them, and it requires them."""
    previous_quantizer: Source | None = None
    """Quantizer of the earlier run. Only quantizer_mode=frozen reads it, and it requires it."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """One digest per input; empty for an input that is not given."""

    items_digest: ParameterOutput
    """Digest of the catalogue."""
    interactions_digest: ParameterOutput
    """Digest of the interaction log."""
    images_digest: ParameterOutput
    """Digest of the image folder."""
    text_model_digest: ParameterOutput
    """Digest of the text encoder."""
    image_model_digest: ParameterOutput
    """Digest of the image encoder."""
    text_embeddings_digest: ParameterOutput
    """Digest of the precomputed text vectors."""
    image_embeddings_digest: ParameterOutput
    """Digest of the precomputed image vectors."""
    users_digest: ParameterOutput
    """Digest of the list of users."""
    allowed_items_digest: ParameterOutput
    """Digest of the list of allowed items."""
    previous_semantic_ids_digest: ParameterOutput
    """Digest of the earlier run's semantic IDs."""
    previous_latents_digest: ParameterOutput
    """Digest of the earlier run's latents."""
    previous_quantizer_digest: ParameterOutput
    """Digest of the earlier run's quantizer."""


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
