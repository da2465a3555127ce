"""S3-Rec: Zhou et al. 2020, "S3-Rec: self-supervised learning for sequential recommendation with
mutual information maximization" (CIKM).

The model is a SASRec. Four tasks pre-train it with bidirectional attention, then it is fine-tuned
with causal attention. F is a hidden state, e an item embedding, a an attribute embedding, and W a
matrix per task:

- associated attributes (AAP, eq. 5 and 6): e W a contrasts the attributes of an item with all
  others
- masked items (MIP, eq. 7 and 8): F W e predicts the masked item of a position
- masked attributes (MAP, eq. 9 and 10): F W a predicts the attributes of that item
- segments (SP, eq. 11 and 12): F W F' matches a row whose segment is masked with that segment, by
  their last states; the negatives are the segments of the other rows of the batch

The weights are 0.2, 1, 1 and 0.5, as in the authors' code. Fine-tuning discards the mask token and
the attributes.

The data contains no attributes. Clusters of the text vectors and of the image vectors replace them:
a coarse and a fine k-means with about `CLUSTER_ITEMS` items per cluster. An item with both vectors
therefore has four attributes. An item without a vector has no attributes of that modality, and the
losses skip them.

Differences from the paper: each task is a softmax of plain inner products over all wrong answers.
These are all other items, or all attributes that the item does not have. The paper applies a
sigmoid first and samples negatives. Equal segments are not negatives of each other. W of the first
three tasks is initialised as the identity. Fine-tuning is that of our SASRec, with cross-entropy
over the full catalogue and a new optimiser.

Shape suffixes: B rows, S positions, D width, N items, P flattened positions, A attributes, T
positions of a segment.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from components.baselines import baseline_vectors, learning
from components.baselines.attention import bidirectional_mask, last_state, start_small
from components.baselines.baseline_vectors import Modalities
from components.baselines.interface import Data, State, TrainedModel, TrainingSchedule
from components.baselines.model_settings import ATTENTION_SPACE, AttentionConfig
from components.baselines.next_item import NextItem, fit_next_item
from components.baselines.padded_histories import Rows, draw_items, shuffle_windows, windows
from components.baselines.sasrec import Network

CLUSTER_ITEMS: Final = (50, 10)
"""Average number of items per attribute, for the coarse and the fine clusters."""
AAP, MIP, MAP, SP = 0.2, 1.0, 1.0, 0.5


@dataclass(frozen=True, kw_only=True)
class Config(AttentionConfig):
    """Settings of the network, the pre-training and the optimiser."""

    pretrain_epochs: int = 20
    """Number of epochs of pre-training; 0 disables it."""
    hidden: float = 0.2
    """Fraction of the items of a row that are masked in pre-training."""

    def problems(self) -> list[str]:
        """Return an error message for each invalid value."""
        problems = super().problems()
        problems += [] if self.pretrain_epochs >= 0 else ["pretrain_epochs is negative"]
        problems += [] if 0 < self.hidden < 1 else ["hidden is not between 0 and 1"]
        return problems


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    **ATTENTION_SPACE,
    "pretrain_epochs": (20, 50, 100),
    "hidden": (0.2, 0.4),
}


class S3Rec(NextItem):
    """S3-Rec as a baseline model. The last token of the network is the mask."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        super().__init__(Network(data.items, data.max_history, config, others=1), device)


def attributes(modalities: Modalities, seed: int) -> npt.NDArray[np.bool_]:
    """Return the attributes of the items, bool [N + 1, A].

    Item N, the padding, has none.
    """
    columns: list[npt.NDArray[np.bool_]] = []
    for modality in modalities.values():
        for size in CLUSTER_ITEMS:
            clusters = max(2, int(modality.present_N.sum()) // size)
            label_N, centre_KE = baseline_vectors.cluster_items(modality, clusters, seed)
            columns.append(np.append(label_N, -1)[:, None] == np.arange(len(centre_KE)))
    return np.concatenate(columns, axis=1)


class Pretraining(nn.Module):
    """The network with the attribute embeddings and the four matrices, which fine-tuning
    discards."""

    def __init__(self, network: Network, has_NA: npt.NDArray[np.bool_], width: int) -> None:
        super().__init__()
        self.mask = network.items + 1
        self.attribute = nn.Embedding(has_NA.shape[1], width)
        self.aap, self.mip, self.map, self.sp = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.apply(start_small)
        for layer in (self.aap, self.mip, self.map):
            nn.init.eye_(layer.weight)  # so what the network learns stays useful without W
        self.network = network
        self.register_buffer("has_NA", torch.from_numpy(has_NA), persistent=False)

    def loss(
        self, rows: Rows, hidden_BS: npt.NDArray[np.bool_], segments: "Segments"
    ) -> torch.Tensor:
        """Return the weighted sum of the task losses of a batch."""
        device = self.attribute.weight.device
        item_BS, length_B, hidden, shown = (
            torch.from_numpy(a).to(device)
            for a in (rows.item_BS, rows.length_B, hidden_BS, rows.real_BS & ~hidden_BS)
        )
        has_NA, network = self.get_buffer("has_NA"), self.network
        state_BSD = self._states(item_BS.masked_fill(hidden, self.mask), length_B)
        hidden_P, state_PD = item_BS[hidden], state_BSD[hidden]
        shown_P = item_BS[shown]
        attribute_DA = self.attribute.weight.T
        aap = attribute_loss(self.aap(network.item(shown_P)) @ attribute_DA, has_NA[shown_P])
        mip = functional.cross_entropy(network.scores(self.mip(state_PD)), hidden_P)
        map_ = attribute_loss(self.map(state_PD) @ attribute_DA, has_NA[hidden_P])
        return AAP * aap + MIP * mip + MAP * map_ + SP * self._segment_loss(rows, segments)

    def _states(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        return self.network(item_BS, length_B, bidirectional_mask(length_B, item_BS.shape[1]))

    def _segment_loss(self, rows: Rows, segments: "Segments") -> torch.Tensor:
        device = self.attribute.weight.device
        item_BS, length_B, within_BS, segment_BS, segment_length_B = (
            torch.from_numpy(a).to(device) for a in (*rows[:2], *segments)
        )
        context_BSD = self._states(item_BS.masked_fill(within_BS, self.mask), length_B)
        context_BD = self.sp(last_state(context_BSD, length_B))
        segment_BD = last_state(self._states(segment_BS, segment_length_B), segment_length_B)
        equal_BB = (segment_BS[:, None] == segment_BS[None]).all(2)
        equal_BB.fill_diagonal_(False)
        logit_BB = (context_BD @ segment_BD.T).masked_fill(equal_BB, -torch.inf)
        target_B = torch.arange(len(length_B), device=device)
        return functional.cross_entropy(logit_BB, target_B)


def attribute_loss(logit_PA: torch.Tensor, has_PA: torch.Tensor) -> torch.Tensor:
    """Contrast each attribute of an item with all attributes that the item does not have.

    The loss is the mean of

        -log(exp f(a) / (exp f(a) + sum of exp f(b) over its wrong attributes b))

    over pairs of a position and an attribute. It is 0 if there is no pair.
    """
    wrong_P1 = logit_PA.masked_fill(has_PA, -torch.inf).logsumexp(1, keepdim=True)
    loss_PA = functional.softplus(wrong_P1 - logit_PA)
    return loss_PA[has_PA].sum() / has_PA.sum().clamp(min=1)


class Segments(NamedTuple):
    """One segment per row: its mask in the row, and its items as a row of T positions."""

    within_BS: npt.NDArray[np.bool_]
    item_BT: npt.NDArray[np.int64]
    length_B: npt.NDArray[np.int64]


def cut(rows: Rows, padding: int, generator: np.random.Generator) -> Segments:
    """Draw a random segment from each row of two or more items.

    A segment has at most half of the items of its row.
    """
    length_B = generator.integers(1, rows.length_B // 2 + 1)
    start_B = generator.integers(0, rows.length_B - length_B + 1)
    place_S = np.arange(rows.item_BS.shape[1])
    within_BS = (place_S >= start_B[:, None]) & (place_S < (start_B + length_B)[:, None])
    place_BT = start_B[:, None] + np.arange(length_B.max())
    taken_BT = np.take_along_axis(rows.item_BS, np.minimum(place_BT, place_S[-1]), 1)
    taken_BT[np.arange(length_B.max()) >= length_B[:, None]] = padding
    return Segments(within_BS, taken_BT, length_B)


def pretrain(
    model: S3Rec, config: Config, data: Data, schedule: TrainingSchedule
) -> list[dict[str, float]]:
    """Train the four tasks on the training part and return the learning curve."""
    has_NA = attributes(baseline_vectors.read_modalities(data), schedule.seed)
    tasks = Pretraining(model.network, has_NA, config.width).to(model.device)
    found = windows(data.training, data.max_history)

    def losses(generator: np.random.Generator) -> Iterator[torch.Tensor]:
        for rows in shuffle_windows(found, config.batch_size, data.items, generator):
            hidden_BS = draw_items(rows, config.hidden, generator)
            yield tasks.loss(rows, hidden_BS, cut(rows, data.items, generator))

    return learning.pretrain("S3Rec", tasks, losses, config.pretrain_epochs, config, schedule)


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Pre-train, then train with the items of the training part as targets.

    The first item of each history is not a target.

    Raises:
        UserError: the vectors do not match the catalogue or are not usable.
    """
    model = S3Rec(config, data, learning.prepare(schedule))
    before = pretrain(model, config, data, schedule) if config.pretrain_epochs else []
    fitted = fit_next_item(model, config, data, schedule)
    return fitted._replace(curve=before + fitted.curve)


def load(config: Config, data: Data, state: State) -> S3Rec:
    """Restore a saved model on the CPU."""
    model = S3Rec(config, data, torch.device("cpu"))
    learning.from_state(model.network, state)
    return model
