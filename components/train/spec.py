"""Declares the settings, inputs and outputs of the stage train."""

from dataclasses import dataclass, fields
from typing import Literal

from components.train.rows import TASKS
from macrec.compute.device import TrainingPrecision
from macrec.core.artifact import Artifact, FolderOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems
from macrec.generator.model import ModelSize
from macrec.generator.tokens import Position


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the recommender and of its training."""

    d_model: int = 128
    """Width of the T5 model."""
    d_ff: int = 1024
    """Width of the feed-forward layers."""
    d_kv: int = 64
    """Width of an attention head."""
    layers: int = 4
    """Number of encoder layers, and of decoder layers."""
    heads: int = 6
    """Number of attention heads."""
    dropout: float = 0.1
    """Dropout rate (0 to 1)."""
    encoder: Literal["full", "causal"] = "full"
    """Attention of the encoder. "full" lets every token see the whole history, as in T5. "causal"
    lets it see only earlier tokens, so a history is read once for all its targets in about half the
    time. The transformers library does not support "causal" in its own forward pass."""
    source: Position = "tokens"
    """What one encoder position is. "tokens": one token of a code, as in the paper. "items": one
    item, the sum of its token embeddings, which shortens sources by the number of levels. The
    transformers library does not support "items" in its own forward pass."""
    max_history: int = 20
    """Maximum number of items read from a history; the most recent ones are read."""
    tasks: tuple[str, ...] = TASKS
    """Training tasks, named <seq or item>_<source modality>_<target modality>. Tasks of a modality
    in which no item has codes are left out."""
    augment: bool = True
    """Train on every item of a training history except its first as a target. If false, only the
    last item is a target; encoder=causal does not support false."""
    item_weight: float = 0.05
    """Weight of the item tasks' mean cross entropy relative to that of the sequence tasks."""
    item_pairs: int = 64
    """Items per step for the item tasks and the implicit alignment; at least 2."""
    implicit_weight: float = 0.01
    """Weight of the implicit alignment loss. 0 turns it off."""
    implicit_temperature: float = 0.1
    """Temperature of the implicit alignment loss."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW between warm-up and decay."""
    embedding_rate: float = 8.0
    """Learning rate of the token embeddings, as a multiple of learning_rate. T5 initialises
    embeddings to size 1 and matrices to size d_model**-0.5, while AdamW moves both by the same
    amount."""
    weight_decay: float = 0.01
    """Weight decay of AdamW. It does not apply to normalisation scales."""
    clip_norm: float = 1.0
    """Maximum norm of the gradient; larger gradients are scaled down to it."""
    warmup_steps: int = 200
    """Steps of the linear warm-up. 0 means none."""
    epochs: int = 40
    """Maximum number of epochs at the constant learning rate. The epochs of the decay are added to
    it."""
    decay: float = 0.25
    """Length of the final linear decay to zero, as a share of the epochs up to the best weights. 0
    means no decay."""
    batch_size: int = 256
    """Pairs of a source and a target item per step. Each source, a history in one modality, is
    decoded once per target modality."""
    label_smoothing: float = 0.0
    """Weight (0 to 1) of the uniform distribution in the target. 0 means no smoothing."""
    history_dropout: float = 0.0
    """Share of items left out of each training history, drawn again in every epoch; never the last
    item. 0 means none, and encoder=causal requires 0."""
    average_decay: float = 0.0
    """Decay per step of a moving average of the weights, such as 0.999. The average is then
    validated and saved instead of the weights. 0 turns averaging off."""
    patience: int = 5
    """Number of consecutive validations without a better NDCG@10 after which the decay starts."""
    validate_every: int = 2
    """Epochs between two validations."""
    validation_users: int = 2000
    """Number of users to validate on, a random sample fixed by the seed. 0 means all."""
    validation_beams: int = 20
    """Beams per modality in validation."""
    fusion_weight: float = 0.5
    """Weight (0 to 1) of the text score in the fused list that is validated."""
    seen_items: SeenItems = "auto"
    """Whether validation lists may contain items of the user's own history: keep, drop, or auto.
    auto drops them unless at least 5 % of the training interactions are repeats."""
    precision: TrainingPrecision = "auto"
    """Precision of matrix products. auto is bfloat16 on a GPU and float32 on a CPU. bfloat16 is
    twice as fast on a CPU that supports it (AVX-512 BF16, AMX). Weights and their updates are
    always float32."""
    seed: int = 0
    """Seed of the weights, the batches, all dropout and the validation sample."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tasks) - set(TASKS))
        problems = [f"tasks names {', '.join(unknown)}"] if unknown else []
        if not any(task.startswith("seq_") for task in self.tasks):
            problems.append("tasks has no sequence task, so nothing learns to recommend")
        sizes = ("d_model", "d_ff", "d_kv", "layers", "heads", "max_history")
        counts = ("epochs", "batch_size", "patience", "validate_every", "validation_beams")
        problems += [f"{name} is below 1" for name in sizes + counts if getattr(self, name) < 1]
        positive = ("learning_rate", "embedding_rate", "clip_norm", "implicit_temperature")
        problems += [f"{name} is not above 0" for name in positive if not getattr(self, name) > 0]
        zero = ("item_weight", "implicit_weight", "weight_decay", "decay", "warmup_steps", "seed")
        problems += [f"{name} is negative" for name in zero if getattr(self, name) < 0]
        shares = ("dropout", "label_smoothing", "fusion_weight")
        problems += [f"{n} is outside 0..1" for n in shares if not 0 <= getattr(self, n) <= 1]
        below = ("history_dropout", "average_decay")
        problems += [
            f"{n} is not in 0..1, 1 excluded" for n in below if not 0 <= getattr(self, n) < 1
        ]
        if self.encoder == "causal" and (self.history_dropout or not self.augment):
            problems.append("encoder=causal has neither history_dropout nor augment=false")
        if self.item_pairs < 2:
            problems.append("item_pairs is below 2, which leaves the alignment no negatives")
        check(not problems, f"train: {'; '.join(problems)}. Known tasks: {', '.join(TASKS)}.")

    @property
    def use_pairs(self) -> bool:
        """Whether any task or loss reads item pairs."""
        return self.implicit_weight > 0 or any(task.startswith("item_") for task in self.tasks)

    @property
    def model_size(self) -> ModelSize:
        """The sizes of the T5 model."""
        names = [f.name for f in fields(ModelSize)]
        return ModelSize(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings that affect only where and how fast the stage runs."""

    device: str = "auto"
    """Device of the training: auto (a GPU if available, else the CPU), cpu or cuda."""
    threads: int = 0
    """CPU threads. 0 leaves the number to PyTorch. Sums are split into one part per thread, so
    results repeat bit for bit only with the same number of threads."""
    validation_batch: int = 64
    """Users ranked together in validation."""
    checkpoint_seconds: float = 300.0
    """Seconds between two checkpoints, from which an interrupted run resumes. They are kept in the
    artifact store; without a store there are none."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The artifacts that the stage reads."""

    sequences: Artifact
    """The users' items in time order."""
    semantic_ids: Artifact
    """Codes of every item."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    recommender: FolderOutput
    """The T5 model, its vocabulary and the semantic IDs. history.json contains the learning
    curve."""


def unused_imports(config: Settings) -> set[tuple[str, str]]:
    """Return the imports whose code cannot change a training.

    Validation ranks without item neighbours, so changes to how they are counted keep a training
    valid.
    """
    return {
        (f"macrec.ranking.{name}", "macrec.ranking.neighbours") for name in ("ranker", "candidates")
    }


STAGE = Stage(
    name="train",
    summary="Train the generative recommender.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    distributed=True,
    resumable=True,
    unused_imports=unused_imports,
)
