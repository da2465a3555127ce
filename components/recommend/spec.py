"""Declares the settings, inputs and outputs of the stage recommend."""

from dataclasses import dataclass
from typing import Literal

from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage

EVALUATED = -1.0  # stands for the value that evaluate chose


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that determine the recommendations."""

    top_k: int = 20
    """Items per list. A user's list is shorter if fewer items may be recommended to them. 0 skips
    the stage; the output then has no rows."""
    beams: int = 20
    """Beams of each modality's search; top_k is used if it is larger. The items that the searches
    find are then ranked by both modalities."""
    fusion_weight: float = EVALUATED
    """Weight (0 to 1) of the text score in the fused list. -1 takes the weight that evaluate
    chose."""
    neighbour_weight: float = EVALUATED
    """Weight of the item neighbours, from 0 (the fused list alone) to below 1. Neighbours are
    counted in the whole histories of `sequences`. -1 takes the weight that evaluate chose."""
    neighbour_asymmetry: float = EVALUATED
    """Exponent (0 to 1) of the asymmetric cosine between item neighbours. 0.5 is the usual cosine;
    larger values penalise popular neighbours less. -1 takes the value that evaluate chose."""
    look_alikes: float = EVALUATED
    """Share (0 to 1) of the neighbour score that comes from items with similar latents. -1 takes
    the share that evaluate chose."""
    successors: float = EVALUATED
    """Share (0 to 1) of the co-occurrence part of the neighbour score that comes from items which
    followed those of the history. -1 takes the share that evaluate chose."""
    renormalise: Literal["evaluated", "on", "off"] = "evaluated"
    """Whether each softmax covers only the legal codes ("on") or all tokens ("off"). "evaluated"
    takes the choice under which evaluate chose the weights."""
    precision: Literal["evaluated", "float32", "bfloat16"] = "evaluated"
    """Precision of the model's matrix products. "evaluated" takes the precision that evaluate
    used."""
    seen_items: Literal["evaluated", "keep", "drop"] = "evaluated"
    """Whether a list may contain items of the user's history. Use "drop" if items are bought once,
    "keep" if users return for the same items. "evaluated" follows evaluate."""

    def __post_init__(self) -> None:
        problems = ["top_k is negative"] if self.top_k < 0 else []
        problems += ["beams is below 1"] if self.beams < 1 else []
        if self.fusion_weight != EVALUATED and not 0 <= self.fusion_weight <= 1:
            problems.append("fusion_weight is neither within 0..1 nor -1 (the one evaluate chose)")
        if self.neighbour_weight != EVALUATED and not 0 <= self.neighbour_weight < 1:
            problems.append("neighbour_weight is neither 0 to below 1 nor -1 (that of evaluate)")
        for name in ("neighbour_asymmetry", "look_alikes", "successors"):
            if (value := getattr(self, name)) != EVALUATED and not 0 <= value <= 1:
                problems.append(f"{name} is neither within 0..1 nor -1 (that of evaluate)")
        check(not problems, f"recommend: {'; '.join(problems)}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings that affect only where the stage runs and how much it holds at a time."""

    device: str = "auto"
    """Device of the model: auto (a GPU if available, else the CPU), cpu or cuda."""
    batch_size: int = 0
    """Users decoded together. 0 means 64 on a CPU and 512 on a GPU; lower it if memory runs out. It
    changes scores by about 1e-6, as the number of threads does."""
    threads: int = 0
    """CPU threads. 0 leaves the number to PyTorch."""
    shard_users: int = 16_384
    """Users per shard. A finished shard survives an interruption, and one shard is held in memory
    at a time. Scores of its last, smaller batch can differ by about 1e-6."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 0, f"batch_size={self.batch_size}: must be 0 (automatic) or more.")
        check(self.shard_users >= 1, f"shard_users={self.shard_users}: must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that the stage reads."""

    sequences: Artifact
    """The users' items in time order. All of them are read; nothing is held out."""
    semantic_ids: Artifact
    """Ids and codes of every item; must be those that the recommender was trained on."""
    recommender: Artifact
    """The trained recommender."""
    latents: Artifact
    """Encoder outputs of the same items, used to find similar items."""
    predictions: Artifact
    """The output of evaluate, which states the weights that it chose."""
    users: Source | None = None
    """List of user ids to recommend for: Parquet, CSV or JSON lines with user_id, or text with one
    id per line. Empty: all users."""
    allowed_items: Source | None = None
    """List of item ids that may be recommended, such as those in stock. Formats: Parquet, CSV or
    JSON lines with item_id, or text with one id per line. Empty: all items."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    recommendations: DatasetOutput
    """Ranked items of every user, one row per user and rank."""


STAGE = Stage(
    name="recommend",
    summary="Write the best items for every user.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    resumable=True,
)
