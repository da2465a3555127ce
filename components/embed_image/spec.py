"""Declares the settings, inputs and outputs of the stage embed_image."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from macrec.compute.device import Device
from macrec.compute.sharding import check_shard
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.settings import Share, settings_class
from macrec.core.stage import Pool, Stage


@settings_class
class Settings:
    """Settings that determine the vectors."""

    pooling: Literal["cls", "mean", "pooler"] = "cls"
    """How patch vectors become one item vector: "cls" takes the class token, "mean" averages the
    patches, "pooler" takes the model's own pooled vector. For CLIP, "pooler" is the projected
    vector (768 components for ViT-L/14, as in the paper)."""
    size: NonNegativeInt = 0
    """Side of the model's input in pixels. It is rounded to the nearest multiple of the model's
    patch size. 0 means the size that the model folder states."""
    resize: Literal["model", "crop", "squash"] = "model"
    """How an image becomes square. "model" follows the model folder, "crop" crops the centre,
    "squash" ignores the aspect ratio and so keeps the edges of tall covers."""
    centre: bool = False
    """Subtract the mean of all vectors."""
    max_bad_images: Share = 0.01
    """Maximum share (0 to 1) of images that may be damaged, too large or in an unsupported format.
    Above it the run fails. Absent files count for max_missing_images instead."""
    max_missing_images: Share = 0.1
    """Maximum share (0 to 1) of images that the catalogue names and the folder lacks. Above it the
    run fails. Single absent files are common in exports, but a larger share is most often a wrong
    folder, an unfinished copy or another spelling of the paths. Their items get no image vector."""
    max_pixels: PositiveInt = 50_000_000
    """Images with more pixels than this are not decoded. Their items get no vector and the status
    "too_large"."""
    shard: str = ""
    """Set by the pipeline. K/N embeds the K-th of N parts of the images into the embedding cache.
    The task with an empty value then writes all vectors from that cache."""

    def __post_init__(self) -> None:
        check_shard(self.shard)


@settings_class
class Execution:
    """Settings that affect only the speed."""

    device: Device = "auto"
    """Device of the model: auto (a GPU if available, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the model. auto is bfloat16 on a GPU and float32 on a CPU."""
    batch_images: PositiveInt = 32
    """Images per batch; a CPU core takes at most 8 of them at a time. Lower it if memory runs
    out."""
    workers: NonNegativeInt = 0
    """Threads that decode images. 0 means one per CPU core."""
    checkpoint_seconds: NonNegativeFloat = 300.0
    """Seconds between two writes of new vectors to the embedding cache, from which an interrupted
    run resumes. The cache is part of the artifact store; without a store nothing is cached."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that the stage reads.

    Give `images` and `model`, or `embeddings`; give none of them for a run on text alone.
    """

    items: Artifact
    """The catalogue. The column `image_uri` is a path below `images`."""
    images: Source | None = None
    """Folder of images, local or gs://. Formats: JPEG, PNG, WebP, and GIF (first frame)."""
    model: Source | None = None
    """Image encoder: a vision transformer folder, local or gs://, or a hub id
    name/model[@revision]."""
    embeddings: Source | None = None
    """Precomputed vectors: Parquet with the columns item_id and embedding (list of numbers)."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    image_embeddings: DatasetOutput
    """One row per item with its vector, or null and the reason."""


STAGE = Stage(
    name="embed_image",
    summary="Embed the picture of every item with a frozen vision transformer.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    everyday=("pooling", "size", "resize", "centre", "max_bad_images", "max_missing_images"),
    cached=True,
    sharded=True,
)
