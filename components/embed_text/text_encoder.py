"""Encodes texts as vectors: prompt, truncation by tokens, batches of fixed shapes, pooling.

N texts, B batch, L tokens, D components
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from macrec.compute.device import choose_device
from macrec.core.artifact import Source
from macrec.core.errors import check
from macrec.core.progress import Progress
from macrec.data import encoders
from macrec.data.embeddings import MISSING, OK, Vectors

CHARACTERS_PER_TOKEN = 64
"""Texts longer than max_tokens times this are cut before tokenization. 10 MB then cost as much as
16 kB."""


# Few tokens keep a CPU busy, and small batches need less padding; a GPU needs many.
CPU_BATCH, GPU_BATCH = 512, 32_768


class TextBatch(NamedTuple):
    """Texts that go through the model together, padded to a shape that depends only on lengths."""

    rows: list[int]
    height: int
    """Rows of the batch, padding rows included."""
    width: int
    """Tokens per row, padding included."""


class TextEncoder:
    """Wraps a transformers decoder (LLaMA) or encoder (BERT) as a function from texts to vectors.

    Attributes:
        dim: components of a vector.
        dtype: precision of the model.
        tokens: tokens read so far, without padding.
        truncated: number of texts truncated so far.
    """

    def __init__(
        self,
        source: Source,
        *,
        pooling: str = "last_token",
        prompt: str = "{}",
        max_tokens: int = 256,
        batch_tokens: int = 0,
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 0,
    ) -> None:
        """Open the model.

        Raises:
            UserError: the model cannot be opened or is not a text encoder.
        """
        self.device = choose_device(device)
        self.dtype = precision = encoders.choose_dtype(dtype, self.device)
        location = encoders.Location.of(source)
        config = _load_config(source, location)
        self._tokenizer = encoders.load_tokenizer(source, location)
        config.use_cache = False  # the key-value cache is not used here and takes memory
        self._model = encoders.load_model(
            source, location, device=self.device, dtype=precision, config=config
        )
        self.dim: int = config.hidden_size
        self._limit: int = getattr(config, "max_position_embeddings", None) or 1 << 30
        self._pooling, self._max_tokens = pooling, max_tokens
        self._cores = encoders.Cores(self.device, threads)
        self._budget = batch_tokens or (CPU_BATCH if self.device.type == "cpu" else GPU_BATCH)
        self._head, _, self._tail = prompt.partition("{}")
        self.tokens = self.truncated = self._padded = 0

    @property
    def padding_share(self) -> float:
        """The share of padding in the computed tokens."""
        return 1 - self.tokens / self._padded if self._padded else 0.0

    def encode(
        self,
        texts: Sequence[str],
        progress: Progress | None = None,
        done: Callable[[list[int], np.ndarray], None] = lambda rows, vectors_BD: None,
    ) -> Vectors:
        """Return the vectors of the texts in order; an empty text has the status "missing".

        Args:
            texts: N texts.
            progress: is advanced by every text.
            done: is called with the rows and vectors of each batch as soon as they are computed.
        """
        present = [row for row, text in enumerate(texts) if text.strip()]
        ids = self._tokenize([texts[row] for row in present])
        matrix_ND = np.zeros((len(texts), self.dim), np.float32)
        batches = batches_by_length([len(i) for i in ids], self._budget)
        for batch, vectors_BD in self._cores.map(lambda b: self._forward(b, ids), batches):
            rows = [present[i] for i in batch.rows]
            matrix_ND[rows] = vectors_BD
            done(rows, vectors_BD)
            self.tokens += sum(len(ids[i]) for i in batch.rows)
            self._padded += batch.height * batch.width
            if progress:
                progress.advance(len(rows))
        if progress:
            progress.advance(len(texts) - len(present))
        status = np.full(len(texts), MISSING, object)
        status[present] = OK
        return Vectors(matrix_ND, status)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        prompts = [f"{self._head}{text}{self._tail}" for text in self._cut(texts)]
        ids: list[list[int]] = self._tokenizer(prompts, return_attention_mask=False)["input_ids"]
        longest = max(map(len, ids))
        check(
            longest <= self._limit,
            f"max_tokens={self._max_tokens}: with the prompt that makes {longest} tokens, and the "
            f"model reads {self._limit}. Lower max_tokens by {longest - self._limit}.",
        )
        check(min(map(len, ids)) > 0, "the tokenizer returns no token for some texts.")
        return ids

    def _cut(self, texts: list[str]) -> list[str]:
        """Return the texts, each truncated after the last token that is kept."""
        texts = list(texts)
        # A token has at least one byte, so the many short texts need no check.
        long = [i for i, text in enumerate(texts) if len(text.encode()) > self._max_tokens]
        limit = self._max_tokens * CHARACTERS_PER_TOKEN
        for i in long:
            text = texts[i][:limit]
            offsets = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
            if len(offsets) > self._max_tokens:
                text = text[: offsets[self._max_tokens - 1][1]]
            self.truncated += len(text) < len(texts[i])
            texts[i] = text
        return texts

    @torch.inference_mode()
    def _forward(self, batch: TextBatch, ids: list[list[int]]) -> np.ndarray:
        shape = (batch.height, batch.width)
        # Padding at the end is right for decoders and encoders: positions count from 0 and no
        # causal token sees it. The last token is selected by the row's length.
        ids_BL = np.full(shape, self._tokenizer.pad_token_id or 0)
        # A row of padding alone would have no token to attend to.
        lengths_B = np.ones(batch.height, np.int64)
        lengths_B[: len(batch.rows)] = [len(ids[i]) for i in batch.rows]
        for row, i in enumerate(batch.rows):
            ids_BL[row, : lengths_B[row]] = ids[i]
        mask_BL = np.arange(batch.width) < lengths_B[:, None]
        mask = torch.from_numpy(mask_BL.astype(np.int64)).to(self.device)
        what = f"{batch.height} texts of {batch.width} tokens"
        with encoders.out_of_memory_hint(what, f"batch_tokens (now {self._budget})"):
            hidden_BLD = self._model(
                input_ids=torch.from_numpy(ids_BL).to(self.device), attention_mask=mask
            ).last_hidden_state
        return encoders.pool(hidden_BLD, mask, self._pooling)[: len(batch.rows)].cpu().numpy()


def _load_config(source: Source, location: encoders.Location) -> Any:
    config = encoders.load_config(source, location)
    check(
        not config.is_encoder_decoder and hasattr(config, "hidden_size"),
        f"{source.uri}: model type {config.model_type!r} is not a plain text encoder or decoder.",
    )
    return config


def check_text_encoder(source: Source) -> None:
    """Open all of a text encoder but its weights.

    Raises:
        UserError: the model cannot be opened or is not a text encoder.
    """
    location = encoders.Location.of(source)
    _load_config(source, location)
    encoders.load_tokenizer(source, location)


def batches_by_length(lengths: Sequence[int], budget: int) -> Iterator[TextBatch]:
    """Group rows of similar length into batches of at most `budget` padded tokens, longest first.

    The shape of a text's batch depends only on the length of the text, so its vector does not
    depend on the other texts. A row longer than the budget forms its own batch. The longest rows
    come first, so that a lack of memory shows at once.
    """
    by_width: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_width.setdefault(padded_length(length), []).append(row)
    for width in sorted(by_width, reverse=True):
        rows, count = by_width[width], max(1, budget // width)
        for start in range(0, len(rows), count):
            yield TextBatch(rows[start : start + count], count, width)


def padded_length(length: int) -> int:
    """Return the length rounded up to one of four values between two powers of two."""
    step = max(1, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step
