"""Holds the vectors and labels for training. N items, B batch, E embedding size."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from macrec.core.errors import check
from macrec.core.progress import log
from macrec.data.vectors import Rows
from macrec.tokenizer.quantizer import ModalityQuantizer

CHUNK = 8_192  # rows processed at once
AHEAD = 2  # batches read ahead


class OnDisk:
    """Vectors read from disk by rows; indexing returns tensors on the CPU."""

    device = torch.device("cpu")

    def __init__(self, matrix_NE: Rows) -> None:
        self.matrix_NE, self.shape = matrix_NE, matrix_NE.shape

    def __len__(self) -> int:
        return len(self.matrix_NE)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return torch.from_numpy(
            self.matrix_NE[rows if isinstance(rows, slice) else rows.numpy(force=True)]
        )

    def to(self, device: torch.device) -> Tensor:
        """Return all rows as a tensor on the device, copied chunk by chunk."""
        there_NE = torch.empty(self.shape, dtype=self[:0].dtype, device=device)
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            there_NE[part] = self[part].to(device)
        return there_NE


class Modality(NamedTuple):
    """One modality of all items, or of a batch. Rows with `present` False are never read."""

    embedding_NE: Tensor | OnDisk  # float32 or float16
    present_N: Tensor  # bool
    label_N: Tensor  # int64 pseudo-label of THIS modality, -1 without one

    def take(self, rows_B: Tensor, device: torch.device) -> "Modality":
        """Return the given rows on the device."""
        return Modality(*(t[rows_B.to(t.device)].to(device) for t in self))

    def to(self, device: torch.device) -> "Modality":
        """Return all rows on the device."""
        return Modality(*(t.to(device) for t in self))

    @property
    def matrix_NE(self) -> Rows:
        """The vectors for readers without torch."""
        vectors_NE = self.embedding_NE
        return vectors_NE.cpu().numpy() if isinstance(vectors_NE, Tensor) else vectors_NE.matrix_NE

    @property
    def size(self) -> int:
        """The size of the vectors in bytes."""
        return math.prod(self.embedding_NE.shape) * self.embedding_NE[:0].element_size()

    @property
    def dim(self) -> int:
        """The number of components of a vector."""
        return self.embedding_NE.shape[1]


Catalogue = Mapping[str, Modality]
"""Modalities by name; row k of each is item k."""


@contextmanager
def log_duration(phase: str) -> Iterator[None]:
    """Log how long the block took, if that was long enough to be reported."""
    started, busy = time.monotonic(), time.process_time()
    yield
    seconds, busy = time.monotonic() - started, time.process_time() - busy
    if seconds >= float(os.environ.get("MACREC_PROGRESS_SECONDS", "30")):
        log.info("quantize: %s took %.1f s (%.1f s of CPU time)", phase, seconds, busy)


def items(catalogue: Catalogue) -> int:
    """Return the number of items, with a vector or without."""
    return len(next(iter(catalogue.values())).present_N)


def batches(
    catalogue: Catalogue,
    rows: Sequence[Tensor],
    device: torch.device,
    share: Callable[[int], slice] = slice,
) -> Iterator[Catalogue]:
    """Yield the batches of the given rows on the device, in order.

    Vectors that are not on the device are read ahead by a thread while the device works. For a GPU
    they are in pinned memory, from which it copies asynchronously.

    Args:
        catalogue: all items.
        rows: the rows of each batch.
        device: where the batches are needed.
        share: returns, for a number of rows, those whose vectors this process reads; presence and
            labels are those of the whole batch.
    """
    vectors = {name: data.embedding_NE for name, data in catalogue.items()}
    near = all(isinstance(v, Tensor) and v.device.type == device.type for v in vectors.values())

    def read(rows_B: Tensor) -> dict[str, Tensor]:
        own_B = rows_B[share(len(rows_B))]
        own = {name: v[own_B.to(v.device)] for name, v in vectors.items()}
        pinned = device.type == "cuda" and not near
        return {name: t.pin_memory() for name, t in own.items()} if pinned else own

    for rows_B, embeddings in zip(
        rows, map(read, rows) if near else _ahead(read, rows), strict=True
    ):
        batch: dict[str, Modality] = {}
        for name, data in catalogue.items():
            there = data.present_N.device
            present_B, label_B = (t[rows_B.to(there)] for t in (data.present_N, data.label_N))
            embedding_BE = embeddings[name].to(device, non_blocking=True)
            batch[name] = Modality(embedding_BE, present_B.to(device), label_B.to(device))
        yield batch


def _ahead(
    read: Callable[[Tensor], dict[str, Tensor]], rows: Sequence[Tensor]
) -> Iterator[dict[str, Tensor]]:
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        waiting: deque[Future[dict[str, Tensor]]] = deque()
        for rows_B in rows:
            waiting.append(pool.submit(read, rows_B))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def fit_normalisation(part: ModalityQuantizer, data: Modality, name: str) -> None:
    """Set the mean vector and the root of the mean variance over the present items."""
    total_E, squares, count = torch.zeros(data.dim, dtype=torch.float64), 0.0, 0
    for start in range(0, len(data.present_N), CHUNK):
        chunk = slice(start, start + CHUNK)
        kept_BE = data.embedding_NE[chunk][data.present_N[chunk]].double().cpu()
        total_E += kept_BE.sum(0)
        squares += float(kept_BE.square().sum())
        count += len(kept_BE)
    mean_E = total_E / count
    variance = (squares / count - float(mean_E.square().sum())) / data.dim
    check(
        math.isfinite(variance) and variance > 0,
        f"{name}_embeddings: the {count} vectors have variance {variance}; "
        "they must be finite and must differ from each other",
    )
    part.mean_E.copy_(mean_E)
    part.scale.fill_(math.sqrt(variance))
