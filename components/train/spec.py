"""Declares the settings, inputs and outputs of the stage train."""

from dataclasses import dataclass, fields
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from macrec.compute.device import Device
from macrec.compute.precision import TrainingPrecision
from macrec.core.artifact import Artifact, FolderOutput
from macrec.core.errors import check
from macrec.core.settings import (
    COMMA_SEPARATED,
    AutoFloat,
    AutoInt,
    Seed,
    Share,
    ShareBelowOne,
    settings_class,
)
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems
from macrec.generator.model import ModelSize
from macrec.generator.tokens import Position

Task = Literal[
    "seq_text_text",
    "seq_image_image",
    "seq_text_image",
    "seq_image_text",
    "item_text_image",
    "item_image_text",
]
"""Training task: <seq or item>_<source modality>_<target modality>."""
TASKS: Final[tuple[Task, ...]] = get_args(Task)


@settings_class
class Settings:
    """Settings of the recommender and of its training."""

    d_model: AutoInt = 0
    """Width of the T5 model. "auto" or 0 chooses 64 for fewer than 10,000 items, else 128."""
    d_ff: AutoInt = 0
    """Width of the feed-forward layers. "auto" or 0 chooses 256 for fewer than 10,000 items, else
    1024."""
    d_kv: AutoInt = 0
    """Width of an attention head. "auto" or 0 chooses 16 for fewer than 10,000 items, else 64."""
    layers: AutoInt = 0
    """Number of encoder layers, and of decoder layers. "auto" or 0 chooses 2 for fewer than 10,000
    items, else 4."""
    heads: AutoInt = 0
    """Number of attention heads. "auto" or 0 chooses 4 for fewer than 10,000 items, else 6."""
    dropout: Share = 0.1
    """Dropout rate (0 to 1)."""
    encoder: Literal["full", "causal"] = "full"
    """Attention of the encoder. "full" lets every token see the whole history, as in T5. "causal"
    lets it see only earlier tokens, so a history is read once for all its targets in about half the
    time. The transformers library does not support "causal" in its own forward pass."""
    source: Position = "tokens"
    """What one encoder position is. "tokens": one token of a code, as in the paper. "items": one
    item, the sum of its token embeddings, which shortens sources by the number of levels. The
    transformers library does not support "items" in its own forward pass."""
    max_history: PositiveInt = 20
    """Maximum number of items read from a history; the most recent ones are read."""
    tasks: Annotated[tuple[Task, ...], COMMA_SEPARATED] = TASKS
    """Training tasks, named <seq or item>_<source modality>_<target modality>. Tasks of a modality
    in which no item has codes are left out."""
    augment: bool = True
    """Train on every item of a training history except its first as a target. If false, only the
    last item is a target; encoder=causal does not support false."""
    item_weight: NonNegativeFloat = 0.05
    """Weight of the item tasks' mean cross entropy relative to that of the sequence tasks."""
    item_pairs: Annotated[int, Field(ge=2)] = 64
    """Items per step for the item tasks and the implicit alignment; at least 2."""
    implicit_weight: NonNegativeFloat = 0.01
    """Weight of the implicit alignment loss. 0 turns it off."""
    implicit_temperature: PositiveFloat = 0.1
    """Temperature of the implicit alignment loss."""
    learning_rate: AutoFloat = 0.0
    """Learning rate of AdamW between warm-up and decay. "auto" or 0 chooses 0.003 for fewer than
    10,000 items, else 0.001."""
    embedding_rate: PositiveFloat = 8.0
    """Learning rate of the token embeddings, as a multiple of learning_rate. T5 initialises
    embeddings to size 1 and matrices to size d_model**-0.5, while AdamW moves both by the same
    amount."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay of AdamW. It does not apply to normalisation scales."""
    clip_norm: PositiveFloat = 1.0
    """Maximum norm of the gradient; larger gradients are scaled down to it."""
    warmup_steps: NonNegativeInt = 200
    """Steps of the linear warm-up. 0 means none."""
    epochs: PositiveInt = 40
    """Maximum number of epochs at the constant learning rate. The epochs of the decay are added to
    it."""
    decay: NonNegativeFloat = 0.25
    """Length of the final linear decay to zero, as a share of the epochs up to the best weights. 0
    means no decay."""
    batch_size: PositiveInt = 256
    """Pairs of a source and a target item per step. Each source, a history in one modality, is
    decoded once per target modality."""
    label_smoothing: Share = 0.0
    """Weight (0 to 1) of the uniform distribution in the target. 0 means no smoothing."""
    history_dropout: ShareBelowOne = 0.0
    """Share of items left out of each training history, drawn again in every epoch; never the last
    item. 0 means none, and encoder=causal requires 0."""
    average_decay: ShareBelowOne = 0.0
    """Decay per step of a moving average of the weights, such as 0.999. The average is then
    validated and saved instead of the weights. 0 turns averaging off."""
    patience: PositiveInt = 5
    """Number of consecutive validations without a better NDCG@10 after which the decay starts."""
    validate_every: PositiveInt = 2
    """Epochs between two validations."""
    validation_users: NonNegativeInt = 2000
    """Number of users to validate on, a random sample fixed by the seed. 0 means all."""
    validation_beams: PositiveInt = 20
    """Beams per modality in validation."""
    fusion_weight: Share = 0.5
    """Weight (0 to 1) of the text score in the fused list that is validated."""
    seen_items: SeenItems = "auto"
    """Whether validation lists may contain items of the user's own history: keep, drop, or auto.
    auto drops them unless at least 5 % of the training interactions are repeats."""
    precision: TrainingPrecision = "auto"
    """Precision of matrix products. auto is bfloat16 on a GPU and float32 on a CPU. bfloat16 is
    twice as fast on a CPU that supports it (AVX-512 BF16, AMX). Weights and their updates are
    always float32."""
    seed: Seed = 0
    """Seed of the weights, the batches, all dropout and the validation sample."""

    def __post_init__(self) -> None:
        bad: list[str] = []
        if not any(task.startswith("seq_") for task in self.tasks):
            named = ", ".join(task for task in TASKS if task.startswith("seq_"))
            bad.append(f"tasks needs at least one of {named}")
        if self.encoder == "causal" and (self.history_dropout or not self.augment):
            bad.append("encoder=causal needs history_dropout=0 and augment=true")
        check(not bad, f"{'; '.join(bad)}.")

    @property
    def use_pairs(self) -> bool:
        """Whether any task or loss reads item pairs."""
        return self.implicit_weight > 0 or any(task.startswith("item_") for task in self.tasks)

    @property
    def model_size(self) -> ModelSize:
        """The sizes of the T5 model. Automatic sizes must have been resolved (`auto_sizes`)."""
        assert all((self.d_model, self.d_ff, self.d_kv, self.layers, self.heads))
        names = [f.name for f in fields(ModelSize)]
        return ModelSize(**{name: getattr(self, name) for name in names})


@settings_class
class Execution:
    """Settings that affect only where and how fast the stage runs."""

    device: Device = "auto"
    """Device of the training: auto (a GPU if available, else the CPU), cpu or cuda."""
    threads: NonNegativeInt = 0
    """CPU threads. 0 leaves the number to PyTorch. Sums are split into one part per thread, so
    results repeat bit for bit only with the same number of threads."""
    validation_batch: PositiveInt = 64
    """Users ranked together in validation."""
    checkpoint_seconds: NonNegativeFloat = 300.0
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
    everyday=(
        "d_model",
        "layers",
        "max_history",
        "epochs",
        "learning_rate",
        "batch_size",
        "patience",
        "precision",
    ),
    distributed=True,
    resumable=True,
    unused_imports=unused_imports,
)
