"""Implements the losses of the generator.

Shapes: B sources, S source length, D width, G targets of a source, L levels, V tokens, P pairs, X =
B * G * L.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from components.train.batches import IGNORED, NO_TASK, Batch
from components.train.rows import TASKS
from macrec.generator.t5 import NO_DROPOUT, Dropout, Weights, decode_blocks, encode, memory


class BatchLoss(NamedTuple):
    """The loss of a batch as sums that several processes can add up, and inputs of the curve."""

    loss_sum: Tensor  # over target tokens, label smoothing included
    tokens: Tensor  # number of target tokens
    task_sum_T: Tensor  # cross entropy summed over target tokens, by task, without smoothing
    task_tokens_T: Tensor
    encoded_BSD: Tensor
    mask_BS: Tensor


def batch_loss(
    weights: Weights,
    batch: Batch,
    label_smoothing: float,
    device: torch.device,
    dropout: Dropout = NO_DROPOUT,
) -> BatchLoss:
    """Return the cross entropy over target tokens (MACRec, L_rec without the implicit term)."""
    source_BS, decoder_BGL, labels_BGL, task_BG = (
        torch.from_numpy(array).to(device, non_blocking=True) for array in batch[:4]
    )
    encoded_BSD, mask_BS, padding = encode(weights, source_BS, dropout)
    sums_T, tokens_T = torch.zeros(2, len(TASKS) + 1, device=device)
    if (batch.task_BG == NO_TASK).all():
        nothing = sums_T.sum()
        return BatchLoss(nothing, nothing, sums_T[1:], tokens_T[1:], encoded_BSD, mask_BS)
    sources = memory(weights, encoded_BSD)
    if batch.visible_BG is not None:
        visible_BG = torch.from_numpy(batch.visible_BG // weights.tokens_per_position)
        visible_BG = visible_BG.to(device, non_blocking=True)
        padding = beyond(visible_BG.repeat_interleave(labels_BGL.shape[2], 1), padding)
    logits_XV = decode_blocks(weights, sources, padding, decoder_BGL, dropout).flatten(0, 2)
    labels_X = labels_BGL.flatten()
    nll_X = F.cross_entropy(logits_XV, labels_X, reduction="none", ignore_index=IGNORED)
    counted_X = labels_X != IGNORED
    loss_sum = nll_X.sum()
    if label_smoothing:  # with weight epsilon the target is uniform over the vocabulary
        uniform_X = logits_XV.logsumexp(1) - logits_XV.mean(1)
        smooth = (uniform_X * counted_X).sum()
        loss_sum = (1 - label_smoothing) * loss_sum + label_smoothing * smooth
    task_X = (task_BG + 1).unsqueeze(-1).expand_as(labels_BGL).flatten()  # 0 is NO_TASK
    sums_T = sums_T.index_add(0, task_X, nll_X.detach().float())
    tokens_T = tokens_T.index_add(0, task_X, counted_X.float())
    tokens = counted_X.sum()
    return BatchLoss(loss_sum, tokens, sums_T[1:], tokens_T[1:], encoded_BSD, mask_BS)


def beyond(visible_BT: Tensor, padding: Tensor) -> Tensor:
    """Return a bias [B, 1, T, S] that shows each target token only the start of its source."""
    place_S = torch.arange(padding.shape[-1], device=padding.device)
    hidden_BTS = place_S >= visible_BT[:, :, None]
    bias_BTS = torch.zeros_like(hidden_BTS, dtype=padding.dtype)
    return bias_BTS.masked_fill_(hidden_BTS, -torch.inf)[:, None]


def mean_pooled(encoded_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Return the mean [B, D] of the encoder outputs over the tokens that are not padding."""
    weight_BS1 = mask_BS.unsqueeze(-1).to(encoded_BSD.dtype)
    return (encoded_BSD * weight_BS1).sum(1) / weight_BS1.sum(1)


def implicit_loss(text_PD: Tensor, image_PD: Tensor, temperature: float) -> Tensor:
    """Return the implicit alignment loss: InfoNCE text to image plus image to text.

    Row k of both inputs is one item. The other items of the batch are the negatives; similarity is
    the cosine.
    """
    text_PD, image_PD = F.normalize(text_PD.float(), dim=1), F.normalize(image_PD.float(), dim=1)
    similarity_PP = text_PD @ image_PD.T / temperature
    same_P = torch.arange(len(text_PD), device=text_PD.device)
    return F.cross_entropy(similarity_PP, same_P) + F.cross_entropy(similarity_PP.T, same_P)
