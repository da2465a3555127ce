"""Stage embed_text: computes one vector per item from its text, or reads it from a file.

Without a model and a file, all vectors are null: the run uses images alone.
"""

import time

from components.embed_text.spec import Execution, Inputs, Outputs, Settings
from components.embed_text.text_encoder import TextEncoder
from components.embed_text.text_vectors import TextVectors
from macrec.core.errors import check
from macrec.core.fingerprint import module_version
from macrec.core.progress import log
from macrec.core.stage import Job, Metrics
from macrec.data import embeddings
from macrec.data.embedding_cache import EmbeddingCache


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Embed the text of every item.

    An item without text gets a null row. Without a model and a file, all rows are null. A text
    whose vector is in the cache is not embedded again.

    Raises:
        UserError: both sources of vectors are given, or one cannot be used.
    """
    check(
        job.inputs.model is None or job.inputs.embeddings is None,
        "embed_text: give model (an encoder) or embeddings (ready vectors), not both.",
    )

    output = job.outputs.text_embeddings
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
        log.info("embed_text: neither model nor embeddings are given: every vector is null")
        return embeddings.write_absent(output, job.inputs.items.rows)

    encoder, started = _open_encoder(job.settings, job.inputs, job.execution), time.monotonic()
    with _cache(job.cache_uri, job.settings, job.inputs, job.execution, encoder) as cache:
        vectors = TextVectors(encoder, job.inputs.items, cache, job.settings.shard)
        if job.settings.shard:
            counts = embeddings.count_statuses(vectors)
            embeddings.write_absent(output, job.inputs.items.rows)
        else:
            counts = embeddings.write_vectors(
                output,
                vectors,
                job.inputs.items,
                dim=encoder.dim,
                centre=job.settings.centre,
                remedy="Set another embed_text.dtype, or choose another text encoder.",
            )
    return embeddings.metrics(counts, encoder.dim) | {
        "embedded_items": vectors.embedded,
        "cached_items": vectors.cached,
        "truncated": encoder.truncated,
        "tokens": encoder.tokens,
        "tokens_per_second": encoder.tokens / max(time.monotonic() - started, 1e-9),
        "padding_share": encoder.padding_share,
    }


def _open_encoder(config: Settings, inputs: Inputs, execution: Execution) -> TextEncoder:
    assert inputs.model is not None
    return TextEncoder(
        inputs.model,
        pooling=config.pooling,
        prompt=config.prompt,
        max_tokens=config.max_tokens,
        batch_tokens=execution.batch_tokens,
        device=execution.device,
        dtype=execution.dtype,
        threads=execution.workers,
    )


def _cache(
    uri: str, config: Settings, inputs: Inputs, execution: Execution, encoder: TextEncoder
) -> EmbeddingCache:
    """Open the cache of this exact encoder.

    Its identity contains all that a vector depends on, except the text.
    """
    assert inputs.model is not None
    identity = {
        "model": inputs.model.digest,
        "code": module_version("components.embed_text.text_encoder"),
        "dtype": str(encoder.dtype),
        "pooling": config.pooling,
        "prompt": config.prompt,
        "max_tokens": config.max_tokens,
    }
    seconds, part = execution.checkpoint_seconds, bool(config.shard)
    return EmbeddingCache(uri, identity, encoder.dim, seconds, keep_all=part)
