"""embed_text: one vector per item from its text, by a language model or given in a file.

Without either, all vectors are null: the run is on pictures alone.
"""

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from macrec.compute.sharding import check_shard
from macrec.core import stage
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check

if TYPE_CHECKING:
    from components.embed_text.text_encoder import TextEncoder
    from macrec.data.embedding_cache import EmbeddingCache


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the vectors depend on."""

    pooling: Literal["mean", "last_token", "cls"] = "last_token"
    """One vector out of the tokens': that of the last one (decoders, LLaMA), the mean (the paper;
    most BERT-like encoders) or the first (encoders trained so)."""
    prompt: str = "Product title: {}\nProduct category:"
    """What the model reads; {} stands for the item's text. "{}" is the text alone."""
    centre: bool = True
    """Subtract the mean of all vectors: those of language models share a large common part."""
    max_tokens: int = 256
    """Tokens kept of an item's text; the prompt around it is always kept whole."""
    shard: str = ""
    """Set by the pipeline: K/N embeds the K-th of N parts of the items into the embedding cache,
    from which the task that embeds them all takes the vectors. Empty for that task."""

    def __post_init__(self) -> None:
        check(
            self.prompt.count("{}") == 1,
            f"prompt={self.prompt!r}: must contain {{}} exactly once; the item's text goes there.",
        )
        check_shard(self.shard)
        check(self.max_tokens >= 1, f"max_tokens={self.max_tokens}: must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the model; auto is bfloat16 on a GPU, float32 on a CPU."""
    batch_tokens: int = 0
    """Tokens of a batch, padding included; 0 = 512 on each core of a CPU, 32,768 on a GPU. Lower it
    if memory does not suffice."""
    workers: int = 0
    """CPU cores for the model; 0 = as many as torch would use."""
    checkpoint_seconds: float = 300.0
    """Time after which new vectors go to the embedding cache, from which a run that was cut short
    goes on; it lies in the store, without which there is none."""

    def __post_init__(self) -> None:
        check(
            self.batch_tokens >= 0,
            f"batch_tokens={self.batch_tokens}: must be 0 (automatic) or more.",
        )
        check(self.workers >= 0, f"workers={self.workers}: must be 0 (automatic) or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads: `model` or `embeddings`; neither for a run on pictures."""

    items: Artifact
    """The catalogue; the column `text` is embedded."""
    model: Source | None = None
    """A transformers model: a folder, a gs:// folder, or a hub id name/model[@revision]."""
    embeddings: Source | None = None
    """Vectors made elsewhere: Parquet with the columns item_id and embedding (list of numbers)."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    text_embeddings: DatasetOutput
    """One row per item: its vector, or null and the reason."""


def run(
    config: Config,
    inputs: Inputs,
    outputs: Outputs,
    execution: Execution,
    cache_uri: str = "",
) -> dict[str, float]:
    """Embeds the text of every item; one without text gets a null row, all without a source do.

    A text whose vector is in the cache is not read by the model again.

    Raises:
        UserError: two sources of vectors, or one that cannot be used.
    """
    check(
        inputs.model is None or inputs.embeddings is None,
        "embed_text: give model (an encoder) or embeddings (ready vectors), not both.",
    )
    from macrec.data import embeddings

    output = outputs.text_embeddings
    if config.shard and (inputs.model is None or not cache_uri):
        stage.log.info("part %s: nothing to do without an encoder and a store", config.shard)
        return embeddings.write_absent(output, inputs.items.rows)  # the whole task does it alone
    if inputs.embeddings is not None:
        return embeddings.copy_given(inputs.embeddings, inputs.items, output, centre=config.centre)

    if inputs.model is None:
        stage.log.info("embed_text: neither model nor embeddings are given: every vector is null")
        return embeddings.write_absent(output, inputs.items.rows)
    from components.embed_text.text_vectors import TextVectors

    encoder, started = _open_encoder(config, inputs, execution), time.monotonic()
    with _cache(cache_uri, config, inputs, execution, encoder) as cache:
        vectors = TextVectors(encoder, inputs.items, cache, config.shard)
        if config.shard:
            counts = embeddings.count(vectors)
            embeddings.write_absent(output, inputs.items.rows)
        else:
            counts = embeddings.write_vectors(
                output, vectors, dim=encoder.dim, centre=config.centre
            )
    return embeddings.metrics(counts, encoder.dim) | {
        "embedded_items": vectors.embedded,
        "cached_items": vectors.cached,
        "truncated": encoder.truncated,
        "tokens": encoder.tokens,
        "tokens_per_second": encoder.tokens / max(time.monotonic() - started, 1e-9),
        "padding_share": encoder.padding_share,
    }


def _open_encoder(config: Config, inputs: Inputs, execution: Execution) -> "TextEncoder":
    from components.embed_text.text_encoder import TextEncoder

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
    uri: str, config: Config, inputs: Inputs, execution: Execution, encoder: "TextEncoder"
) -> "EmbeddingCache":
    """The vectors of this very encoder: all that a vector depends on but the text."""
    from macrec.core.fingerprint import module_version
    from macrec.data.embedding_cache import EmbeddingCache

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


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
