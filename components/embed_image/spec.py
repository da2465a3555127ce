"""What the stage embed_image is: its settings, inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

from macrec.compute.sharding import check_shard
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the vectors depend on."""

    pooling: Literal["cls", "mean", "pooler"] = "cls"
    """The class token, the mean of the patches, or the model's own pooled vector (for CLIP the
    projected one: 768 components for ViT-L/14, as in the paper)."""
    size: int = 0
    """Side of the model's input in pixels, a multiple of its patch; 0 = as its folder states."""
    resize: Literal["model", "crop", "squash"] = "model"
    """How a picture becomes square: as the model's folder states, by cropping the centre, or by
    squashing, which keeps the edges of tall covers."""
    centre: bool = False
    """Subtract the mean of all vectors."""
    max_bad_images: float = 0.01
    """Share of the pictures that may be damaged, too large or of no allowed format."""
    max_pixels: int = 50_000_000
    """Larger pictures are not decoded ("too_large")."""
    shard: str = ""
    """Set by the pipeline: K/N embeds the K-th of N parts of the items into the embedding cache,
    from which the task that embeds them all takes the vectors. Empty for that task."""

    def __post_init__(self) -> None:
        check(self.size >= 0, f"size={self.size}: must be 0 (the model's own) or more.")
        check(
            0 <= self.max_bad_images <= 1,
            f"max_bad_images={self.max_bad_images}: a share, must be from 0 to 1.",
        )
        check_shard(self.shard)
        check(self.max_pixels >= 1, f"max_pixels={self.max_pixels}: must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the model; auto is bfloat16 on a GPU, float32 on a CPU."""
    batch_images: int = 32
    """Pictures of a batch; lower it if memory does not suffice."""
    workers: int = 0
    """Threads that decode pictures; 0 = one per CPU core."""
    checkpoint_seconds: float = 300.0
    """Time after which new vectors go to the embedding cache, from which a run that was cut short
    goes on; it lies in the store, without which there is none."""

    def __post_init__(self) -> None:
        check(self.batch_images >= 1, f"batch_images={self.batch_images}: must be at least 1.")
        check(self.workers >= 0, f"workers={self.workers}: must be 0 (automatic) or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads: `images` and `model`, or `embeddings`; neither for a run on text."""

    items: Artifact
    """The catalogue; the column `image_uri` is a path below `images`."""
    images: Source | None = None
    """Folder of pictures, local or gs://: JPEG, PNG, WebP or GIF (first frame)."""
    model: Source | None = None
    """A vision transformer: a folder, a gs:// folder, or a hub id name/model[@revision]."""
    embeddings: Source | None = None
    """Vectors made elsewhere: Parquet with the columns item_id and embedding (list of numbers)."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    image_embeddings: DatasetOutput
    """One row per item: its vector, or null and the reason."""


STAGE = Stage(
    name="embed_image",
    summary="Embed the picture of every item with a frozen vision transformer.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    cached=True,
)
