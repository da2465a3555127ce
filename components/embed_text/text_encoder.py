"""Texts to vectors: prompt, truncation by tokens, batches of one shape per length, pooling.

N texts, B batch, L tokens, D components
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from macrec.compute.device import choose_device
from macrec.core.artifact import Source
from macrec.core.errors import check
from macrec.core.progress import Progress
from macrec.data import encoders
from macrec.data.embeddings import MISSING, OK, Vectors

CHARACTERS_PER_TOKEN = 64
"""A text beyond max_tokens times this is cut before it is tokenized: 10 MB cost what 16 kB do."""


# A CPU is busy with few tokens, and small batches need less padding; a GPU wants many.
CPU_BATCH, GPU_BATCH = 512, 32_768


class TextBatch(NamedTuple):
    """Texts that go through the model together, filled up to a shape that only lengths decide."""

    rows: list[int]
    height: int
    """Rows of the batch, filling included."""
    width: int
    """Tokens of a row, padding included."""


class TextEncoder:
    """Any transformers decoder (LLaMA) or encoder (BERT) as a function from texts to vectors.

    Attributes:
        dim: components of a vector.
        dtype: precision of the model.
        tokens: tokens read so far, without padding.
        truncated: texts cut so far.
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
        """Opens the model.

        Raises:
            UserError: the model cannot be opened or is no text encoder.
        """
        self.device = choose_device(device)
        self.dtype = precision = encoders.choose_dtype(dtype, self.device)
        location = encoders.Location.of(source)
        config = encoders.load_config(source, location)
        check(
            not config.is_encoder_decoder and hasattr(config, "hidden_size"),
            f"{source.uri}: model type {config.model_type!r} is no plain text encoder or decoder.",
        )
        self._tokenizer = encoders.load_tokenizer(source, location)
        config.use_cache = False  # keys and values are of no use here and take memory
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
        """Share of the computed tokens that were padding."""
        return 1 - self.tokens / self._padded if self._padded else 0.0

    def encode(
        self,
        texts: Sequence[str],
        progress: Progress | None = None,
        done: Callable[[list[int], np.ndarray], None] = lambda rows, vectors_BD: None,
    ) -> Vectors:
        """Vectors of the texts, in their order; an empty text has the status "missing".

        Args:
            texts: N of them.
            progress: told of every text.
            done: gets the rows and the vectors of each batch as soon as they are there.
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
        check(min(map(len, ids)) > 0, "the tokenizer makes no token of some texts.")
        return ids

    def _cut(self, texts: list[str]) -> list[str]:
        """The texts, those of too many tokens cut after the last one that is kept."""
        texts = list(texts)
        # A token is at least one byte: the many short texts need no look.
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
        # Padding stands at the end, where it is right for decoders and encoders alike: positions
        # count from 0 and no causal token sees it. The last token is picked by its length.
        ids_BL = np.full(shape, self._tokenizer.pad_token_id or 0)
        # A row of padding alone would attend to nothing.
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


def batches_by_length(lengths: Sequence[int], budget: int) -> Iterator[TextBatch]:
    """Groups rows of like length, longest first, into batches of at most `budget` padded tokens.

    The shape of a text's batch depends on the length of the text alone, so that its vector does not
    depend on the texts beside it. A row longer than the budget is a batch of its own. The longest
    come first, so that memory that does not suffice shows at once.
    """
    by_width: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_width.setdefault(padded_length(length), []).append(row)
    for width in sorted(by_width, reverse=True):
        rows, count = by_width[width], max(1, budget // width)
        for start in range(0, len(rows), count):
            yield TextBatch(rows[start : start + count], count, width)


def padded_length(length: int) -> int:
    """The length rounded up to one of few: four from a power of two to the next one."""
    step = max(1, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step
