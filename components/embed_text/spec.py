"""Declares the settings, inputs and outputs of the stage embed_text."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from macrec.compute.device import Device
from macrec.compute.sharding import check_shard
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.settings import settings_class
from macrec.core.stage import Pool, Stage


@settings_class
class Settings:
    """Settings that determine the vectors."""

    pooling: Literal["mean", "last_token", "cls"] = "last_token"
    """How token vectors become one item vector. "last_token" suits decoders such as LLaMA. "mean"
    is the paper's choice and suits most BERT-like encoders. "cls" takes the first token; use it for
    encoders trained that way."""
    prompt: str = "Product title: {}\nProduct category:"
    """Prompt template; {} is replaced by the item's text and must occur exactly once. Use "{}" to
    embed the text alone."""
    centre: bool = True
    """Subtract the mean of all vectors. Use it for language models, whose vectors share a large
    common component."""
    max_tokens: PositiveInt = 256
    """Maximum number of tokens of an item's text; longer texts are truncated. The prompt is never
    truncated."""
    shard: str = ""
    """Set by the pipeline. K/N embeds the K-th of N parts of the items into the embedding cache.
    The task with an empty value then writes all vectors from that cache."""

    def __post_init__(self) -> None:
        check(
            self.prompt.count("{}") == 1,
            f"prompt={self.prompt!r}: must contain {{}} exactly once; the item's text goes there.",
        )
        check_shard(self.shard)


@settings_class
class Execution:
    """Settings that affect only the speed."""

    device: Device = "auto"
    """Device of the model: auto (a GPU if available, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the model. auto is bfloat16 on a GPU and float32 on a CPU."""
    batch_tokens: NonNegativeInt = 0
    """Maximum number of tokens per batch, padding included. 0 means 512 per CPU core, or 32,768 on
    a GPU. Lower it if memory runs out."""
    workers: NonNegativeInt = 0
    """CPU cores used by the model. 0 means as many as PyTorch would use."""
    checkpoint_seconds: NonNegativeFloat = 300.0
    """Seconds between two writes of new vectors to the embedding cache, from which an interrupted
    run resumes. The cache is part of the artifact store; without a store nothing is cached."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that the stage reads.

    Give `model` or `embeddings`, or neither for a run on images alone.
    """

    items: Artifact
    """The catalogue. The column `text` is embedded."""
    model: Source | None = None
    """Text encoder: a transformers model folder, local or gs://, or a hub id
    name/model[@revision]."""
    embeddings: Source | None = None
    """Precomputed vectors: Parquet with the columns item_id and embedding (list of numbers)."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    text_embeddings: DatasetOutput
    """One row per item with its vector, or null and the reason."""


STAGE = Stage(
    name="embed_text",
    summary="Embed the text of every item with a frozen language model.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    everyday=("pooling", "prompt", "centre", "max_tokens"),
    cached=True,
    sharded=True,
)
