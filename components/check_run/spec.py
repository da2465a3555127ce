"""Declares the settings, inputs and outputs of the stage check_run."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import NonNegativeInt

from macrec.core.artifact import ParameterOutput, StructOutput
from macrec.core.settings import settings_class
from macrec.core.stage import Pool, Stage

Preset = Literal[
    "auto", "macrec", "paper", "legacy_macrec", "mql4grec", "tiger", "small", "medium", "large"
]
StageSettings = dict[str, Any]
PREVIOUS = ("previous_semantic_ids", "previous_latents", "previous_quantizer")
"""The artifacts of an earlier run, as later stages name them."""
SOURCES = (
    *("catalog_items", "catalog_interactions", "catalog_images"),
    *("encoder_text", "encoder_image", "vectors_text", "vectors_image"),
    *("lists_users", "lists_allowed_items"),
)
"""Settings that are addresses of external data."""


# A plain dataclass: the stage itself checks the values, so that one message lists all problems.
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The run form, except for the node pools and the store."""

    pipeline: Literal["recommender", "encode"] = "recommender"
    """Pipeline whose form is checked."""
    catalog_items: str
    """The catalogue: delimited text, JSON lines or Parquet; a file or a folder, local or gs://."""
    catalog_interactions: str
    """The interaction log: delimited text, JSON lines or Parquet; a file or a folder."""
    catalog_images: str = ""
    """Folder that contains the images, local or gs://; required if encoder_image is given. The
    catalogue gives each item's path below it."""
    encoder_text: str = ""
    """Text encoder: a transformers model folder, local or gs://, or hub:NAME/MODEL@REVISION. Give
    encoder_text or vectors_text, not both. Leave both empty for a run on images alone."""
    encoder_image: str = ""
    """Image encoder: a vision transformer folder, local or gs://, or hub:NAME/MODEL@REVISION. Give
    encoder_image or vectors_image, not both. Leave both empty for a run on text alone."""
    vectors_text: str = ""
    """Precomputed text vectors, used instead of a text encoder: Parquet with the columns item_id
    and embedding."""
    vectors_image: str = ""
    """Precomputed image vectors, used instead of an image encoder: Parquet with the columns item_id
    and embedding."""
    lists_users: str = ""
    """List of user ids to recommend for: Parquet, CSV or JSON lines with user_id, or text with one
    id per line. Empty: all users."""
    lists_allowed_items: str = ""
    """List of item ids that may be recommended: Parquet, CSV or JSON lines with item_id, or text
    with one id per line. Empty: all items."""
    lists_top_k: NonNegativeInt = 20
    """Items per recommendation list. 0 writes no lists."""
    preset: Preset = "auto"
    """Settings to start from. "auto" chooses sizes from the number of items. "small", "medium" and
    "large" fix them. The others are methods to compare (docs/semantic_ids.md). Settings of single
    stages override the preset."""
    run_previous: str = ""
    """Output folder of an earlier run, local or gs://, or the folder of a KFP run in the pipeline
    root. The report compares the semantic IDs with it. quantize.mode=frozen and the encoding
    pipeline reuse its quantizer."""
    settings_prepare_data: StageSettings = field(default_factory=dict[str, Any])
    """Settings of prepare_data as JSON."""
    settings_embed_text: StageSettings = field(default_factory=dict[str, Any])
    """Settings of embed_text as JSON."""
    settings_embed_image: StageSettings = field(default_factory=dict[str, Any])
    """Settings of embed_image as JSON."""
    settings_embed_histories: StageSettings = field(default_factory=dict[str, Any])
    """Settings of embed_histories as JSON."""
    settings_pseudo_label: StageSettings = field(default_factory=dict[str, Any])
    """Settings of pseudo_label as JSON."""
    settings_quantize: StageSettings = field(default_factory=dict[str, Any])
    """Settings of quantize as JSON."""
    settings_resolve_collisions: StageSettings = field(default_factory=dict[str, Any])
    """Settings of resolve_collisions as JSON."""
    settings_train: StageSettings = field(default_factory=dict[str, Any])
    """Settings of train as JSON."""
    settings_evaluate: StageSettings = field(default_factory=dict[str, Any])
    """Settings of evaluate as JSON."""
    settings_recommend: StageSettings = field(default_factory=dict[str, Any])
    """Settings of recommend as JSON."""
    settings_encode_items: StageSettings = field(default_factory=dict[str, Any])
    """Settings of encode_items as JSON."""


@settings_class
class Execution:
    """Settings that affect only the speed; this stage has none."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The stage has no inputs: it receives the addresses of the data as settings."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The settings of every stage, the digest of all data, and the earlier run's artifacts."""

    prepare_data_settings: StructOutput
    """Checked settings of prepare_data."""
    embed_text_settings: StructOutput
    """Checked settings of embed_text."""
    embed_image_settings: StructOutput
    """Checked settings of embed_image."""
    embed_histories_settings: StructOutput
    """Checked settings of embed_histories."""
    pseudo_label_settings: StructOutput
    """Checked settings of pseudo_label."""
    quantize_settings: StructOutput
    """Checked settings of quantize."""
    resolve_collisions_settings: StructOutput
    """Checked settings of resolve_collisions."""
    train_settings: StructOutput
    """Checked settings of train."""
    evaluate_settings: StructOutput
    """Checked settings of evaluate."""
    recommend_settings: StructOutput
    """Checked settings of recommend."""
    encode_items_settings: StructOutput
    """Checked settings of encode_items."""
    catalog_items_digest: ParameterOutput
    """Digest of the catalogue."""
    catalog_interactions_digest: ParameterOutput
    """Digest of the interaction log."""
    catalog_images_digest: ParameterOutput
    """Digest of the image folder."""
    encoder_text_digest: ParameterOutput
    """Digest of the text encoder."""
    encoder_image_digest: ParameterOutput
    """Digest of the image encoder."""
    vectors_text_digest: ParameterOutput
    """Digest of the precomputed text vectors."""
    vectors_image_digest: ParameterOutput
    """Digest of the precomputed image vectors."""
    lists_users_digest: ParameterOutput
    """Digest of the list of users."""
    lists_allowed_items_digest: ParameterOutput
    """Digest of the list of allowed items."""
    previous_semantic_ids: ParameterOutput
    """Address of the earlier run's semantic IDs; empty without an earlier run."""
    previous_latents: ParameterOutput
    """Address of the earlier run's latents."""
    previous_quantizer: ParameterOutput
    """Address of the earlier run's quantizer."""
    previous_semantic_ids_digest: ParameterOutput
    """Digest of the earlier run's semantic IDs."""
    previous_latents_digest: ParameterOutput
    """Digest of the earlier run's latents."""
    previous_quantizer_digest: ParameterOutput
    """Digest of the earlier run's quantizer."""


STAGE = Stage(
    name="check_run",
    summary="Check the whole run form and take a digest of everything that the run reads.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    reusable=False,
    separate_settings=True,
)
