"""embed_image: one vector per item from its picture, by a vision transformer or given in a file.

Without either, all vectors are null: the run is on text alone.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from macrec.compute.sharding import check_shard
from macrec.core import stage
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check

if TYPE_CHECKING:
    from components.embed_image.image_encoder import ImageEncoder
    from macrec.data.embedding_cache import EmbeddingCache


@dataclass(frozen=True, kw_only=True)
class Config:
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


def run(
    config: Config,
    inputs: Inputs,
    outputs: Outputs,
    execution: Execution,
    cache_uri: str = "",
) -> dict[str, float]:
    """Embeds the picture of every item; one missing or broken gives a null row, no source all.

    A picture whose vector is in the cache is neither decoded nor embedded again.

    Raises:
        UserError: two sources of vectors, one that cannot be used, picture paths that leave their
            folder, or too many broken pictures.
    """
    check(
        inputs.model is None or inputs.embeddings is None,
        "embed_image: give model (an encoder) or embeddings (ready vectors), not both.",
    )
    from macrec.data import embeddings

    output = outputs.image_embeddings
    if config.shard and (inputs.model is None or not cache_uri):
        stage.log.info("part %s: nothing to do without an encoder and a store", config.shard)
        return embeddings.write_absent(output, inputs.items.rows)  # the whole task does it alone
    if inputs.embeddings is not None:
        return embeddings.copy_given(inputs.embeddings, inputs.items, output, centre=config.centre)

    if inputs.model is None:
        stage.log.info("embed_image: neither model nor embeddings are given: every vector is null")
        return embeddings.write_absent(output, inputs.items.rows)
    check(inputs.images is not None, "embed_image: model needs images, the folder of pictures.")
    from components.embed_image import picture_vectors

    assert inputs.images is not None
    pictures = picture_vectors.find_pictures(inputs.items, inputs.images, config.shard)
    model = _open_encoder(config, inputs, execution)
    with _cache(cache_uri, config, inputs, execution, model) as cache:
        embedded = picture_vectors.embed_pictures(
            pictures,
            model,
            cache,
            max_bad=config.max_bad_images,
            max_pixels=config.max_pixels,
            batch=execution.batch_images,
            threads=execution.workers,
            part=bool(config.shard),
        )
    chunks = picture_vectors.item_vectors(pictures, embedded)
    if config.shard:
        counts = embeddings.count(chunks)
        embeddings.write_absent(output, inputs.items.rows)
    else:
        counts = embeddings.write_vectors(output, chunks, dim=model.dim, centre=config.centre)
    return embeddings.metrics(counts, model.dim) | {
        **picture_vectors.item_counts(pictures, embedded),
        "pictures": len(pictures.paths),
        "images_per_second": embedded.images_per_second,
    }


def _open_encoder(config: Config, inputs: Inputs, execution: Execution) -> "ImageEncoder":
    from components.embed_image import image_encoder as encoder

    assert inputs.model is not None
    return encoder.ImageEncoder(
        inputs.model,
        pooling=config.pooling,
        size=config.size,
        resize=config.resize,
        device=execution.device,
        dtype=execution.dtype,
        batch=execution.batch_images,
    )


def _cache(
    uri: str, config: Config, inputs: Inputs, execution: Execution, encoder: "ImageEncoder"
) -> "EmbeddingCache":
    """The vectors of this very encoder: all that a vector depends on but the picture."""
    from macrec.core.fingerprint import module_version
    from macrec.data.embedding_cache import EmbeddingCache

    assert inputs.model is not None
    identity = {
        "model": inputs.model.digest,
        "code": module_version("components.embed_image.image_encoder"),
        "dtype": str(encoder.dtype),
        "pooling": config.pooling,
        "size": config.size,
        "resize": config.resize,
        "max_pixels": config.max_pixels,
    }
    seconds, part = execution.checkpoint_seconds, bool(config.shard)
    return EmbeddingCache(uri, identity, encoder.dim, seconds, keep_all=part)


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
