"""What the stage recommend is: its settings, inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage

EVALUATED = -1.0  # in place of a fusion weight


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is recommended."""

    top_k: int = 20
    """Length of the lists. A user has a shorter one where fewer items may be recommended to him; 0
    leaves the stage out: its dataset has no rows."""
    beams: int = 20
    """Beams of each modality's search, at least top_k: so many items each search finds, which are
    then ranked by both modalities."""
    fusion_weight: float = EVALUATED
    """Weight of the text score in the fused list, 0..1; -1 takes the one that evaluate chose."""
    neighbour_weight: float = EVALUATED
    """Weight of the items' neighbours in histories, counted in all that is given here, from 0 (the
    fused list) to below 1; -1 takes the one that evaluate chose."""
    neighbour_asymmetry: float = EVALUATED
    """Cosine that neighbours are counted by, 0..1: 0.5 is the usual one, more holds less against a
    neighbour for being popular; -1 takes that of evaluate."""
    look_alikes: float = EVALUATED
    """Share, 0..1, that look-alikes have in the neighbours; -1 takes that of evaluate."""
    successors: float = EVALUATED
    """Share, 0..1, that the items which came after those of a history have in the neighbours that
    are counted; -1 takes that of evaluate."""
    renormalise: Literal["evaluated", "on", "off"] = "evaluated"
    """Whether scores are probabilities among the legal codes and not among all tokens; "evaluated"
    does as evaluate did when it chose the weight."""
    precision: Literal["evaluated", "float32", "bfloat16"] = "evaluated"
    """Of the model's matrix products; "evaluated" does as evaluate did."""
    seen_items: Literal["evaluated", "keep", "drop"] = "evaluated"
    """Whether a list may hold items of the user's history; "evaluated" does as evaluate did. Drop
    is right for what is bought once, not where people come back for the same things."""

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
    """Where it runs, and how much of it at a time."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda when there is one."""
    batch_size: int = 0
    """Users decoded together; lower it if memory does not suffice. 0: 64 on a CPU, 512 on a
    GPU. Scores depend on it in their last bits (of the order of 1e-6), as on the threads."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    shard_users: int = 16_384
    """Users whose lists are kept together: what an interruption loses at most, and what is held in
    memory at a time. Its last batch is smaller, which scores show in their last bits."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 0, f"batch_size={self.batch_size}: must be 0 (automatic) or more.")
        check(self.shard_users >= 1, f"shard_users={self.shard_users}: must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is recommended, to whom, and by what."""

    sequences: Artifact
    """Users' items in time order, all of which are read: nothing is held out here."""
    semantic_ids: Artifact
    """Ids and codes of every item, those that the recommender was trained on."""
    recommender: Artifact
    """The trained recommender."""
    latents: Artifact
    """Encoder outputs of the same items, which say what looks alike."""
    predictions: Artifact
    """What evaluate has written: it states the weights that it chose."""
    users: Source | None = None
    """Users to recommend for, a list of their ids: Parquet, CSV or JSON lines with user_id, or
    text with one id a line. All users if it is not given."""
    allowed_items: Source | None = None
    """Items that may be recommended (in stock, fresh, of a category), a list of their ids: Parquet,
    CSV or JSON lines with item_id, or text with one id a line. All items if it is not given."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What comes out."""

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
