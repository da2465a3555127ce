"""embed_text: one vector per item from its text, by a language model or given in a file.

Without either, all vectors are null: the run is on pictures alone.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from macrec import stage
from macrec.artifact import Artifact, DatasetOutput, Source
from macrec.errors import check

if TYPE_CHECKING:
    from components.embed_text.encoder import TextEncoder
    from macrec.embeddings import Vectors


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

    def __post_init__(self) -> None:
        check(
            self.prompt.count("{}") == 1,
            f"prompt={self.prompt!r}: must contain {{}} exactly once; the item's text goes there.",
        )
        check(self.max_tokens >= 1, f"max_tokens={self.max_tokens}: must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the model; auto is bfloat16 on a GPU, float32 on a CPU."""
    batch_tokens: int = 0
    """Tokens of a batch, padding included; 0 = 1,024 on a CPU, 32,768 on a GPU. Lower it if memory
    does not suffice."""
    workers: int = 0
    """CPU threads of the model; 0 leaves the choice to torch."""

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


def run(config: Config, inputs: Inputs, outputs: Outputs, execution: Execution) -> dict[str, float]:
    """Embeds the text of every item; one without text gets a null row, all without a source do.

    Raises:
        UserError: two sources of vectors, or one that cannot be used.
    """
    check(
        inputs.model is None or inputs.embeddings is None,
        "embed_text: give model (an encoder) or embeddings (ready vectors), not both.",
    )
    from macrec import embeddings

    output = outputs.text_embeddings
    if inputs.embeddings is not None:
        return embeddings.copy_given(inputs.embeddings, inputs.items, output, centre=config.centre)

    if inputs.model is None:
        stage.log.info("embed_text: neither model nor embeddings are given: every vector is null")
        return embeddings.write_absent(output, inputs.items.rows)
    from components.embed_text.encoder import TextEncoder

    encoder = TextEncoder(
        inputs.model,
        pooling=config.pooling,
        prompt=config.prompt,
        max_tokens=config.max_tokens,
        batch_tokens=execution.batch_tokens,
        device=execution.device,
        dtype=execution.dtype,
        threads=execution.workers,
    )
    started = time.monotonic()
    counts = embeddings.write_vectors(
        output, _encoded(encoder, inputs.items), dim=encoder.dim, centre=config.centre
    )
    return embeddings.metrics(counts, encoder.dim) | {
        "truncated": encoder.truncated,
        "tokens": encoder.tokens,
        "tokens_per_second": encoder.tokens / max(time.monotonic() - started, 1e-9),
        "padding_share": encoder.padding_share,
    }


def _encoded(encoder: "TextEncoder", items: Artifact) -> "Iterator[Vectors]":
    """The items' vectors in their order, a window at a time: what is sorted fits into memory."""
    from macrec.embeddings import ROWS_AT_ONCE

    with stage.Progress("embed_text", items.rows, "items") as progress:
        for batch in items.batches(["text"], ROWS_AT_ONCE):
            yield encoder.encode(batch.column(0).to_pylist(), progress)


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
