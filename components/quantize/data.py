"""The vectors and labels that the quantizer learns from. N items, B batch, E embedding size."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from macrec.errors import check
from macrec.quantizer import ModalityQuantizer

CHUNK = 65_536  # rows looked at once


class Modality(NamedTuple):
    """One modality of all items, or of a batch. Rows with `present` False are never read."""

    embedding_NE: Tensor
    present_N: Tensor  # bool
    label_N: Tensor  # int64 pseudo-label of THIS modality, -1 without one

    def take(self, rows_B: Tensor, device: torch.device) -> "Modality":
        """The given rows, on the device."""
        return Modality(*(t[rows_B.to(t.device)].to(device) for t in self))

    def to(self, device: torch.device) -> "Modality":
        """All rows, on the device."""
        return Modality(*(t.to(device) for t in self))

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.embedding_NE.shape[1]


Catalogue = Mapping[str, Modality]
"""By modality; row k of each is item k."""


def items(catalogue: Catalogue) -> int:
    """Number of items, with a vector or without."""
    return len(next(iter(catalogue.values())).present_N)


def fit_normalisation(part: ModalityQuantizer, data: Modality, name: str) -> None:
    """Sets the mean vector and the root of the mean variance over the items present."""
    total_E, squares, count = torch.zeros(data.dim, dtype=torch.float64), 0.0, 0
    for embedding_BE, present_B in zip(
        data.embedding_NE.split(CHUNK), data.present_N.split(CHUNK), strict=True
    ):
        kept_BE = embedding_BE[present_B].double().cpu()
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
