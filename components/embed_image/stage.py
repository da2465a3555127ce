"""Stage embed_image: computes one vector per item from its image, or reads it from a file.

Without a model and a file, all vectors are null: the run uses text alone.
"""

from components.embed_image import image_encoder as encoder
from components.embed_image import picture_vectors
from components.embed_image.image_encoder import ImageEncoder
from components.embed_image.spec import Execution, Inputs, Outputs, Settings
from macrec.core.errors import check
from macrec.core.fingerprint import module_version
from macrec.core.progress import log
from macrec.core.stage import Job, Metrics
from macrec.data import embeddings
from macrec.data.embedding_cache import EmbeddingCache
from macrec.data.schema import PICTURES


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Embed the image of every item.

    An item with a missing or broken image gets a null row. Without a model and a file, all rows are
    null. An image whose vector is in the cache is neither decoded nor embedded again.

    Raises:
        UserError: both sources of vectors are given, one cannot be used, image paths leave their
            folder, or too many images are absent or broken.
    """
    check(
        job.inputs.model is None or job.inputs.embeddings is None,
        "embed_image: give model (an encoder) or embeddings (ready vectors), not both.",
    )

    output = job.outputs.image_embeddings
    if job.settings.shard and (job.inputs.model is None or not job.cache_uri):
        log.info("part %s: nothing to do without an encoder and a store", job.settings.shard)
        return embeddings.write_absent(
            output, job.inputs.items.rows
        )  # the task for all items then does the work alone
    if job.inputs.embeddings is not None:
        return embeddings.write_precomputed(
            job.inputs.embeddings, job.inputs.items, output, centre=job.settings.centre
        )

    if job.inputs.model is None:
        log.info("embed_image: neither model nor embeddings are given: every vector is null")
        return embeddings.write_absent(output, job.inputs.items.rows)
    check(job.inputs.images is not None, "embed_image: model needs images, the folder of pictures.")

    assert job.inputs.images is not None
    pictures = picture_vectors.find_pictures(
        job.inputs.items,
        job.inputs.images,
        job.settings.max_missing_images,
        job.settings.shard,
    )
    model = _open_encoder(job.settings, job.inputs, job.execution)
    with _cache(job.cache_uri, job.settings, job.inputs, job.execution, model) as cache:
        embedded = picture_vectors.embed_pictures(
            pictures,
            model,
            cache,
            max_bad=job.settings.max_bad_images,
            max_pixels=job.settings.max_pixels,
            batch=job.execution.batch_images,
            threads=job.execution.workers,
            part=bool(job.settings.shard),
        )
    chunks = picture_vectors.item_vectors(pictures, embedded)
    if job.settings.shard:
        counts = embeddings.count_statuses(chunks)
        embeddings.write_absent(output, job.inputs.items.rows)
    else:
        output.metadata[PICTURES] = {"named": pictures.named, "found": pictures.found}
        counts = embeddings.write_vectors(
            output,
            chunks,
            job.inputs.items,
            dim=model.dim,
            centre=job.settings.centre,
            remedy="Set another embed_image.dtype, or choose another image encoder.",
        )
    return embeddings.metrics(counts, model.dim) | {
        **picture_vectors.item_counts(pictures, embedded),
        "pictures": len(pictures.paths),
        "pictures_found": pictures.found,
        "images_per_second": embedded.images_per_second,
    }


def _open_encoder(config: Settings, inputs: Inputs, execution: Execution) -> ImageEncoder:
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
    uri: str, config: Settings, inputs: Inputs, execution: Execution, encoder: ImageEncoder
) -> EmbeddingCache:
    """Open the cache of this exact encoder.

    Its identity contains all that a vector depends on, except the image.
    """
    assert inputs.model is not None
    identity = {
        "model": inputs.model.digest,
        "code": module_version("components.embed_image.image_encoder"),
        "dtype": str(encoder.dtype),
        "pooling": config.pooling,
        "size": encoder.size,
        "resize": config.resize,
        "max_pixels": config.max_pixels,
    }
    seconds, part = execution.checkpoint_seconds, bool(config.shard)
    return EmbeddingCache(uri, identity, encoder.dim, seconds, keep_all=part)
