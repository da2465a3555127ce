"""What the stage train is: its settings, inputs and outputs."""

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
    """What the recommender is and how it is trained."""

    d_model: int = 128
    """Width of the T5 model."""
    d_ff: int = 1024
    """Width of its feed-forward layers."""
    d_kv: int = 64
    """Width of an attention head."""
    layers: int = 4
    """Layers of the encoder, and of the decoder."""
    heads: int = 6
    """Attention heads."""
    dropout: float = 0.1
    """Dropout rate."""
    encoder: Literal["full", "causal"] = "full"
    """full: every token of a history sees all others, as in T5. causal: it sees those before it, so
    a history is read once for all its targets, which takes about half of the time; transformers'
    own forward pass does not know it."""
    source: Position = "tokens"
    """What a position of the encoder is. tokens: a token of a code, as in the paper. items: an
    item, the sum of its tokens' embeddings, so that a source has as many times fewer positions as
    a code has levels; transformers' own forward pass does not know it."""
    max_history: int = 20
    """Items of a history that are read, the last ones."""
    tasks: tuple[str, ...] = TASKS
    """What is trained: <seq or item>_<source modality>_<target modality>. Tasks of a modality that
    no item has are left out."""
    augment: bool = True
    """Every training item after a user's first is a target; else only the last is."""
    item_weight: float = 0.05
    """Weight of the item tasks' mean cross entropy beside that of the sequence tasks."""
    item_pairs: int = 64
    """Items per step for the item tasks and the implicit alignment."""
    implicit_weight: float = 0.01
    """Weight of the implicit alignment."""
    implicit_temperature: float = 0.1
    """Temperature of the implicit alignment."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW between warm-up and decay."""
    embedding_rate: float = 8.0
    """Learning rate of the token embeddings, as a multiple of `learning_rate`: T5 begins with
    embeddings of size 1 and matrices of size d_model**-0.5, and AdamW moves both by the same."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; normalisation scales have none."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    warmup_steps: int = 200
    """Steps of the linear warm-up."""
    epochs: int = 40
    """Epochs at the constant rate, at most; the decay comes on top."""
    decay: float = 0.25
    """Epochs of the final linear decay to zero, as a share of those up to the best weights."""
    batch_size: int = 256
    """Source sequences per step; each is decoded once per target modality."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the target."""
    history_dropout: float = 0.0
    """Share of the items of a training history that are left out, others in every epoch; never its
    last item."""
    average_decay: float = 0.0
    """Decay per step of the moving average of the weights, such as 0.999, which is then validated
    and saved in their place; 0 averages nothing."""
    patience: int = 5
    """Validations in a row without a better NDCG@10 that start the decay."""
    validate_every: int = 2
    """Epochs between validations."""
    validation_users: int = 2000
    """Users that are validated on, a seeded sample; 0 takes all."""
    validation_beams: int = 20
    """Beams per modality in validation."""
    fusion_weight: float = 0.5
    """Weight of the fused list in validation, as in evaluate."""
    seen_items: SeenItems = "auto"
    """Whether lists in validation may hold items of the user's own history, as in evaluate."""
    precision: TrainingPrecision = "auto"
    """Of matrix products; auto: bfloat16 on a GPU, float32 on a CPU. bfloat16 is twice as fast on a
    CPU that has it (AVX-512 BF16, AMX); weights and their updates are float32 all the same."""
    seed: int = 0
    """Seed of the weights, the batches, every dropout and the validation sample."""

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
        """Whether item pairs are read at all."""
        return self.implicit_weight > 0 or any(task.startswith("item_") for task in self.tasks)

    @property
    def model_size(self) -> ModelSize:
        """The sizes of the T5 model."""
        names = [f.name for f in fields(ModelSize)]
        return ModelSize(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where it runs."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda when there is one."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch. Sums are taken in parts, one a thread: the same
    bytes come again only with as many threads."""
    validation_batch: int = 64
    """Users ranked together in validation."""
    checkpoint_seconds: float = 300.0
    """Time between two checkpoints; they lie in the store, without which there are none."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is learned from."""

    sequences: Artifact
    """Users' items in time order."""
    semantic_ids: Artifact
    """Codes of every item."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What comes out."""

    recommender: FolderOutput
    """T5 model, vocabulary and semantic IDs; history.json is the learning curve."""


def unused_imports(config: Settings) -> set[tuple[str, str]]:
    """Validation ranks without neighbours: how they are counted leaves a training valid."""
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
