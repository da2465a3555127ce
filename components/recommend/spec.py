"""Declares the settings, inputs and outputs of the stage recommend."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt
from pydantic_core import PydanticCustomError

from macrec.compute.device import Device
from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.settings import settings_class
from macrec.core.stage import Pool, Stage

FROM_EVALUATE = -1.0
"""Stands for the value that evaluate chose."""


def _check_share(value: float) -> float:
    if value != FROM_EVALUATE and not 0 <= value <= 1:
        raise PydanticCustomError(
            "share", "should be from 0 to 1, or -1 for the value that evaluate chose"
        )
    return value


ShareOrEvaluated = Annotated[float, AfterValidator(_check_share)]


@settings_class
class Settings:
    """Settings that determine the recommendations."""

    top_k: NonNegativeInt = 20
    """Items per list. A user's list is shorter if fewer items may be recommended to them. 0 skips
    the stage; the output then has no rows."""
    beams: PositiveInt = 20
    """Beams of each modality's search; top_k is used if it is larger. The items that the searches
    find are then ranked by both modalities."""
    fusion_weight: ShareOrEvaluated = FROM_EVALUATE
    """Weight (0 to 1) of the text score in the fused list. -1 takes the weight that evaluate
    chose."""
    neighbour_weight: Annotated[ShareOrEvaluated, Field(lt=1)] = FROM_EVALUATE
    """Weight of the item neighbours, from 0 (the fused list alone) to below 1. Neighbours are
    counted in the whole histories of `sequences`. -1 takes the weight that evaluate chose."""
    neighbour_asymmetry: ShareOrEvaluated = FROM_EVALUATE
    """Exponent (0 to 1) of the asymmetric cosine between item neighbours. 0.5 is the usual cosine;
    larger values penalise popular neighbours less. -1 takes the value that evaluate chose."""
    similar_item_share: ShareOrEvaluated = FROM_EVALUATE
    """Share (0 to 1) of the neighbour score that comes from items with similar latents. -1 takes
    the share that evaluate chose."""
    successor_share: ShareOrEvaluated = FROM_EVALUATE
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


@settings_class
class Execution:
    """Settings that affect only where the stage runs and how much it holds at a time."""

    device: Device = "auto"
    """Device of the model: auto (a GPU if available, else the CPU), cpu or cuda."""
    batch_size: NonNegativeInt = 0
    """Users decoded together. 0 means 64 on a CPU and 512 on a GPU; lower it if memory runs out. It
    changes scores by about 1e-6, as the number of threads does."""
    threads: NonNegativeInt = 0
    """CPU threads. 0 leaves the number to PyTorch."""
    shard_users: PositiveInt = 16_384
    """Users per shard. A finished shard survives an interruption, and one shard is held in memory
    at a time. Scores of its last, smaller batch can differ by about 1e-6."""


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
    everyday=("top_k", "beams", "seen_items", "neighbour_weight"),
    resumable=True,
)
