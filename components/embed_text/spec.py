"""What the stage embed_text is: its settings, inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

from macrec.compute.sharding import check_shard
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
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


STAGE = Stage(
    name="embed_text",
    summary="Embed the text of every item with a frozen language model.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    cached=True,
)
