"""Shared parts of the generators of the P5 family: tokenised IDs, T5, training rows, beam scoring.

The source is the tokens of the history's items, one ID after the other, then EOS. The target is the
ID of the next item. Each token embedding is added to a whole-word embedding, the index of its item
in the history (P5, Geng et al. 2022, RecSys). P5 counts this index from the start. Here it is
counted from the end, as in the other models here. The last item then has the same index in
histories of any length. On a planted rule about the last item, HR@1 was .94 after 10 epochs with
this choice, and .39 after 15 epochs with the other.

STAY tokens between the last cluster and the last token pad all targets to the same length. This
turns a trie of paths of unequal length into one of equal length with the same branches: a cluster
that is not split is its own only child.

The T5, the trie and the decoding are those of the recommender itself (`macrec`). No pre-trained T5
and no prompts are used. The only task is next-item prediction, and its task token starts the
decoder.

Shapes: N items, B rows, S items of a history, T tokens of an item in a history, J tokens of a
history, L tokens of a target, D width, F leaves of the trie, W beams.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import learning
from components.baselines.collaborative_ids import NONE
from components.baselines.interface import (
    Data,
    Float32Array,
    Int32Array,
    State,
    TrainedModel,
    TrainingSchedule,
)
from components.baselines.model_settings import AttentionConfig
from components.baselines.padded_histories import Rows, Windows, pad_histories, shuffle_windows
from macrec.compute.precision import TrainingPrecision, low_precision, warn_if_slow
from macrec.data.sequences import Sequences
from macrec.generator import t5
from macrec.generator.beam_search import beam_search
from macrec.generator.decoder import EncodedSources
from macrec.generator.exhaustive import score_catalogue
from macrec.generator.model import ModelSize, build_t5
from macrec.generator.tokens import EOS, FIRST_CODE, PAD, SEQUENCE_TO_TEXT, Int64Array
from macrec.generator.trie import Trie
from macrec.metrics.ranking_metrics import popularity

STAY: Final = 7
VISUAL: Final = 8
"""First of the token ids for visual tokens; they end before FIRST_CODE."""
USERS_AT_ONCE: Final = 256
"""Number of histories that are decoded together. It limits the memory of the beams."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(AttentionConfig):
    """Settings that the generators share.

    The sizes are those of the MACRec generator on small catalogues. `batch_size` counts targets.
    """

    heads: int = 4
    """Number of attention heads per layer. Each has width / heads dimensions."""
    inner: int = 256
    """Hidden dimension of the feed-forward layers."""
    dropout: float = 0.1
    """Dropout rate."""
    learning_rate: float = 3e-3
    """Learning rate of AdamW."""
    batch_size: int = 256
    """Number of targets per training step."""
    embedding_rate: float = 8.0
    """Learning rate of the embeddings as a multiple of `learning_rate`, as in train."""
    beams: int = 40
    """Number of beams of the search, in validation and in test."""
    precision: TrainingPrecision = "auto"
    """Precision of the matrix products in training, as in train. The search uses float32."""

    def problems(self) -> list[str]:
        """Return an error message for each invalid value."""
        problems = super().problems() + (["beams is below 1"] if self.beams < 1 else [])
        return problems + ([] if self.embedding_rate > 0 else ["embedding_rate is not above 0"])


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "width": (32, 64, 128),
    "layers": (1, 2, 3),
    "inner": (128, 256, 512),
    "dropout": (0.1, 0.2, 0.35, 0.5),
    "learning_rate": (1e-3, 2e-3, 3e-3),
    "weight_decay": (0.0, 0.01, 0.1),
    "batch_size": (64, 128, 256),
}
"""Search space of the shared settings."""


class ItemIds(NamedTuple):
    """Token sequences of the IDs of all items."""

    source_MT: Int64Array
    """Tokens of an item in a history, padded with PAD. M = N + 1: the last row is all PAD and
    represents no item."""
    target_NL: Int64Array
    tokens: int
    """Size of the vocabulary."""

    @classmethod
    def of(cls, path_NL: Int64Array, numbers: int, visual: int = 0) -> "ItemIds":
        """Build the tokens from paths [N, L] of numbers in 0..numbers-1, padded with NONE.

        Args:
            path_NL: unique paths, of which none is a prefix of another.
            numbers: size of the range of the numbers.
            visual: number of visual tokens after each ID in a history; image vectors replace them.
        """
        items, levels = path_NL.shape
        there_NL = path_NL != NONE
        last_N = there_NL.sum(axis=1) - 1
        token_NL = np.where(there_NL, FIRST_CODE + path_NL, PAD)
        source_MT = np.full((items + 1, levels + visual), PAD, np.int64)
        source_MT[:items, :levels] = token_NL
        source_MT[:items, levels:] = VISUAL + np.arange(visual)
        target_NL = np.where(np.arange(levels) < last_N[:, None], token_NL, STAY)
        target_NL[:, -1] = token_NL[np.arange(items), last_N]
        return cls(source_MT, target_NL, FIRST_CODE + numbers)


class Source(NamedTuple):
    """Tokenised histories, padded at the end."""

    token_BJ: torch.Tensor
    item_BJ: torch.Tensor
    """Item that each token belongs to; N for EOS."""
    word_BJ: torch.Tensor
    """Index of that item counted from the end of the history, 1 for the last item; 0 for EOS."""


class Network(nn.Module):
    """Maps histories to encoder states, and computes the loss of the next items."""

    source_MT: torch.Tensor
    target_NL: torch.Tensor
    count_N: torch.Tensor

    def __init__(
        self, ids: ItemIds, count_N: Float32Array, places: int, config: GeneratorConfig
    ) -> None:
        super().__init__()
        size = ModelSize(
            d_model=config.width,
            d_ff=config.inner,
            d_kv=config.width // config.heads,
            layers=config.layers,
            heads=config.heads,
            dropout=config.dropout,
        )
        self.t5 = build_t5(ids.tokens, size)
        self.word = nn.Embedding(places + 1, config.width)
        self.drop = t5.Dropout(config.dropout)
        self.precision: TrainingPrecision = config.precision
        self.register_buffer("source_MT", torch.from_numpy(ids.source_MT))
        self.register_buffer("target_NL", torch.from_numpy(ids.target_NL))
        self.register_buffer("count_N", torch.from_numpy(count_N))

    def fast(self) -> list[torch.Tensor]:
        """Return the embeddings, whose initial values are much larger than those of the
        matrices."""
        return [self.t5.shared.weight, self.word.weight]

    def source(self, item_BS: torch.Tensor) -> Source:
        """Return the tokens of histories without gaps between items.

        Histories are padded with the item N.
        """
        rows, places = item_BS.shape
        token_BST = self.source_MT[item_BS]
        length_B1 = (item_BS < len(self.source_MT) - 1).sum(dim=1, keepdim=True)
        word_BS = (length_B1 - torch.arange(places, device=item_BS.device)).clamp(min=0)
        word_BST = word_BS[..., None].expand_as(token_BST)
        none_B1 = item_BS.new_zeros(rows, 1)
        token_BJ = torch.cat([token_BST.flatten(1), none_B1 + EOS], dim=1)
        item_BJ = item_BS[..., None].expand_as(token_BST).flatten(1)
        item_BJ = torch.cat([item_BJ, none_B1 + len(self.source_MT) - 1], dim=1)
        word_BJ = torch.cat([word_BST.flatten(1), none_B1], dim=1)
        order_BJ = torch.argsort(token_BJ == PAD, dim=1, stable=True)
        longest = int((token_BJ != PAD).sum(dim=1).max())
        order_BJ = order_BJ[:, :longest]
        parts = (part_BJ.gather(1, order_BJ) for part_BJ in (token_BJ, item_BJ, word_BJ))
        return Source(*parts)

    def embedded(self, source: Source) -> torch.Tensor:
        """Return the input embeddings of the encoder, [B, J, D]."""
        token_BJD = functional.embedding(source.token_BJ, self.t5.shared.weight)
        return token_BJD + self.word(source.word_BJ)

    def encoded(self, item_BS: torch.Tensor) -> EncodedSources:
        """Encode histories and prepare them for the decoder."""
        source = self.source(item_BS)
        low = self.training and low_precision(self.precision, item_BS.device.type)
        weights = t5.read_weights(self.t5, torch.bfloat16 if low else None)
        drop = self.drop if self.training else t5.NO_DROPOUT
        mask_BJ = source.token_BJ != PAD
        state_BJD, bias = t5.encode_embedded(weights, self.embedded(source), mask_BJ, drop)
        return EncodedSources(weights, t5.memory(weights, state_BJD), bias)

    def loss(self, item_BS: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the tokens of the next items."""
        encoded = self.encoded(item_BS)
        target_BL = self.target_NL[target_B]
        decoder_BL = functional.pad(target_BL[:, :-1], (1, 0), value=SEQUENCE_TO_TEXT)
        drop = self.drop if self.training else t5.NO_DROPOUT
        logits_B1LV = t5.decode_blocks(
            encoded.weights, encoded.layers, encoded.bias_B11S, decoder_BL[:, None], drop
        )
        return functional.cross_entropy(logits_B1LV.flatten(0, 2), target_BL.flatten())


class Generator:
    """A generator as a baseline model: the network and the trie of all IDs."""

    def __init__(self, network: Network, config: GeneratorConfig, device: torch.device) -> None:
        self.network, self.beams, self.device = network.to(device), config.beams, device
        self.parameters = learning.count(network)
        self.trie = Trie.build(network.target_NL.cpu().numpy(), device)
        self.leaf_N = torch.from_numpy(self.trie.leaf_of_item_N).to(device).long()
        assert self.trie.leaves == len(self.leaf_N), "items share an ID"
        # Scoring the whole trie takes one decoder position per inner node, which is then no more
        # than the search needs.
        self.exhaustive = self.trie.depth_start[-2] <= 1 + self.beams * (self.trie.levels - 1)

    @torch.inference_mode()
    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Return the log-probability of each ID that the search finds, [B, N].

        All other items have lower scores and are ordered by popularity.
        """
        parts = [
            self._scored(histories[start : start + USERS_AT_ONCE])
            for start in range(0, len(histories), USERS_AT_ONCE)
        ]
        return torch.cat(parts).cpu().numpy()

    def _scored(self, histories: Sequence[Int32Array]) -> torch.Tensor:
        rows = pad_histories(histories, len(self.leaf_N))
        encoded = self.network.encoded(torch.from_numpy(rows.item_BS).to(self.device))
        if self.exhaustive:
            return score_catalogue(encoded, SEQUENCE_TO_TEXT, self.trie)[:, self.leaf_N]
        leaf_BW, score_BW = beam_search(encoded, SEQUENCE_TO_TEXT, self.trie, self.beams)
        count_N = self.network.count_N
        below_N = count_N / (count_N.max() + 1) - 2  # -2 to -1
        lowest_B1 = score_BW.amin(dim=1, keepdim=True)
        score_BN = lowest_B1 + below_N
        item_F = torch.argsort(self.leaf_N)
        return score_BN.scatter_(1, item_F[leaf_BW], score_BW)

    def state(self) -> State:
        """Return the weights and the IDs."""
        return learning.as_state(self.network)


def every_target(training: Sequences, max_history: int) -> Windows:
    """Return one window per target: every item except the first of each history.

    A window is the last `max_history` items before the target, and the target.
    """
    start_K = np.repeat(training.offsets[:-1], np.diff(training.offsets))
    target_W = np.flatnonzero(np.arange(len(training.items)) > start_K)
    first_W = np.maximum(start_K[target_W], target_W - max_history)
    length_W = target_W - first_W + 1
    return Windows(training.items, first_W, length_W, length_W - 1)


def history_and_target(rows: Rows, items: int) -> tuple[Int64Array, Int64Array]:
    """Split rows into histories [B, S], padded with the item N, and their last items [B]."""
    everything, last_B = np.arange(len(rows.length_B)), rows.length_B - 1
    target_B = rows.item_BS[everything, last_B]
    history_BS = rows.item_BS.copy()
    history_BS[everything, last_B] = items
    return history_BS[:, :-1], target_B


def train(
    network: Network,
    config: GeneratorConfig,
    data: Data,
    schedule: TrainingSchedule,
    device: torch.device,
) -> TrainedModel:
    """Train with every item of the training part as a target, except the first of each history."""
    model = Generator(network, config, device)
    warn_if_slow(config.precision, device.type)
    found = every_target(data.training, data.max_history)

    def losses(generator: np.random.Generator) -> Iterator[torch.Tensor]:
        for rows in shuffle_windows(found, config.batch_size, data.items, generator):
            parts = history_and_target(rows, data.items)
            yield network.loss(*(torch.from_numpy(part).to(device) for part in parts))

    faster = learning.Faster(network.fast(), config.embedding_rate)
    return learning.learn(model, network, losses, config, schedule, faster)


def counts(data: Data) -> Float32Array:
    """Count the training interactions of each item, [N]."""
    return popularity(data.training.items, data.items).astype(np.float32)


def saved_ids(state: State) -> ItemIds:
    """Return the IDs of a saved model."""
    return ItemIds(state["source_MT"], state["target_NL"], len(state["t5.shared.weight"]))


def restored(network: Network, config: GeneratorConfig, state: State) -> Generator:
    """Restore a saved model on the CPU."""
    learning.from_state(network, state)
    return Generator(network, config, torch.device("cpu"))
