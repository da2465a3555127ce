"""The losses of the generator.

Shapes: B sources, S source length, D width, G targets of a source, L levels, V tokens, P pairs,
X = B * G * L.
The G targets of a source stand one after the other in ONE decoder row, under a block-diagonal
causal mask: T5 knows relative positions only, so a block computes what it would compute alone, and
the encoder's keys and values are projected once.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from components.train.batches import IGNORED, NO_TASK, Batch
from components.train.rows import TASKS
from macrec.generator import PAD

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

MASKED = -1e9  # finite: an additive -inf turns a fully masked row into NaN


class BatchLoss(NamedTuple):
    """Loss of a batch and what the learning curve needs of it."""

    loss: Tensor  # mean over target tokens, label smoothing included
    task_sum_T: Tensor  # cross entropy summed over target tokens, by task, without smoothing
    task_tokens_T: Tensor
    encoded_BSD: Tensor
    mask_BS: Tensor


def block_mask(blocks: int, levels: int, device: torch.device) -> Tensor:
    """Additive mask [1, 1, GL, GL]: a position sees the earlier ones of its own block."""
    causal_LL = torch.ones(levels, levels, device=device).tril()
    seen = torch.kron(torch.eye(blocks, device=device), causal_LL)
    return ((1 - seen) * MASKED)[None, None]


def decode(
    model: "T5ForConditionalGeneration", encoded_BSD: Tensor, mask_BS: Tensor, decoder_BGL: Tensor
) -> Tensor:
    """Logits [B, G, L, V] of the targets of each source."""
    rows, blocks, levels = decoder_BGL.shape
    output = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded_BSD),
        attention_mask=mask_BS,
        decoder_input_ids=decoder_BGL.flatten(1),
        decoder_attention_mask=block_mask(blocks, levels, decoder_BGL.device),
        use_cache=False,
    )
    return output.logits.view(rows, blocks, levels, -1)


def batch_loss(
    model: "T5ForConditionalGeneration",
    batch: Batch,
    label_smoothing: float,
    device: torch.device,
) -> BatchLoss:
    """Cross entropy of a batch over its target tokens (MACRec, L_rec without the implicit term)."""
    source_BS, decoder_BGL, labels_BGL, task_BG = (
        torch.from_numpy(array).to(device, non_blocking=True) for array in batch
    )
    mask_BS = (source_BS != PAD).long()
    encoded_BSD = model.encoder(input_ids=source_BS, attention_mask=mask_BS).last_hidden_state
    sums_T, tokens_T = torch.zeros(2, len(TASKS) + 1, device=device)
    if (batch.task_BG == NO_TASK).all():
        return BatchLoss(sums_T.sum(), sums_T[1:], tokens_T[1:], encoded_BSD, mask_BS)
    logits_XV = decode(model, encoded_BSD, mask_BS, decoder_BGL).flatten(0, 2).float()
    labels_X = labels_BGL.flatten()
    nll_X = F.cross_entropy(logits_XV, labels_X, reduction="none", ignore_index=IGNORED)
    counted_X = labels_X != IGNORED
    tokens = counted_X.sum()
    loss = nll_X.sum() / tokens
    if label_smoothing:  # with weight epsilon the target is uniform over the vocabulary
        uniform_X = logits_XV.logsumexp(1) - logits_XV.mean(1)
        smooth = (uniform_X * counted_X).sum() / tokens
        loss = (1 - label_smoothing) * loss + label_smoothing * smooth
    task_X = (task_BG + 1).unsqueeze(-1).expand_as(labels_BGL).flatten()  # 0 is NO_TASK
    sums_T = sums_T.index_add(0, task_X, nll_X.detach())
    tokens_T = tokens_T.index_add(0, task_X, counted_X.float())
    return BatchLoss(loss, sums_T[1:], tokens_T[1:], encoded_BSD, mask_BS)


def mean_pooled(encoded_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean [B, D] of the encoder outputs over the tokens that are not padding."""
    weight_BS1 = mask_BS.unsqueeze(-1).to(encoded_BSD.dtype)
    return (encoded_BSD * weight_BS1).sum(1) / weight_BS1.sum(1)


def implicit_loss(text_PD: Tensor, image_PD: Tensor, temperature: float) -> Tensor:
    """Implicit alignment: InfoNCE text to image plus image to text; row k of both is one item.

    The other items of the batch are the negatives; similarity is the cosine.
    """
    text_PD, image_PD = F.normalize(text_PD.float(), dim=1), F.normalize(image_PD.float(), dim=1)
    similarity_PP = text_PD @ image_PD.T / temperature
    same_P = torch.arange(len(text_PD), device=text_PD.device)
    return F.cross_entropy(similarity_PP, same_P) + F.cross_entropy(similarity_PP.T, same_P)
