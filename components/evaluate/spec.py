"""What the stage evaluate is: its settings, inputs and outputs."""

from dataclasses import dataclass

from macrec.compute.device import Precision
from macrec.core.artifact import Artifact, DatasetOutput, HtmlOutput, MarkdownOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the recommender is evaluated."""

    beams: int = 20
    """Beams of each modality's search; the fused list draws on both."""
    top_k: int = 20
    """Length of the lists; metrics beyond it are left out."""
    fusion_weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Weights of the text score to choose from, by NDCG@10 on validation users. There is no fused
    list in a run on text or on pictures alone."""
    neighbour_weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Weights to choose from, as those above, of an item's neighbours: what stood near it in the
    training parts of histories. They propose items too, and the hybrid list draws on them and on
    the fused one. Ours, not the paper's; none at all leaves them out."""
    neighbour_asymmetries: tuple[float, ...] = (0.5, 0.7)
    """Cosines that neighbours are counted by, to choose from with their weight: 0.5 is the usual
    one, more holds less against a neighbour for being popular, less holds more."""
    look_alikes: tuple[float, ...] = (0.0, 0.3)
    """Shares to choose from, with the weight of the neighbours, that an item's look-alikes have in
    them: the items whose latents are nearest, whatever histories say."""
    successors: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Shares to choose from, with the others, that the items which came after those of a history
    have in the neighbours that are counted; the rest is for what stood near, before or after."""
    validation_users: int = 2000
    """Users that the weights are chosen on, a seeded sample; 0 takes all."""
    single_modality_beams: int = 40
    """Beams of two more rows, text alone and image alone: as many as the fused list has had in
    both searches together; 0 leaves the rows out."""
    seen_items: SeenItems = "auto"
    """Whether a list may hold items of the user's own history: keep, drop, or auto, which drops
    them unless 5 % of the training interactions or more are repeats. All systems do alike."""
    renormalise: bool = False
    """Scores are probabilities among the legal codes, not among all tokens."""
    precision: Precision = "float32"
    """Of the model's matrix products. bfloat16 is faster on a GPU and on a CPU that has it (AVX-512
    BF16, AMX), slower on others; scores change in their third digit."""
    published_fusion: bool = False
    """Adds a row fused by the rule of the published code: what both searches found comes first."""
    reciprocal_fusion: bool = False
    """Adds a row fused by reciprocal ranks, 1 / (k + rank) by text plus that by image, over the
    same candidates."""
    reciprocal_constant: int = 60
    """k of the reciprocal ranks; the larger, the less the first places stand out."""
    examples: int = 12
    """Test users shown in the report, half of them with a hit in the first ten."""
    seed: int = 0
    """Seed of the validation sample, the confidence intervals and the examples."""

    def __post_init__(self) -> None:
        counts = ("validation_users", "single_modality_beams", "reciprocal_constant", "examples")
        problems = [f"{name} is negative" for name in (*counts, "seed") if getattr(self, name) < 0]
        if self.beams < 1:
            problems.append("beams is below 1")
        if self.top_k < 10:
            problems.append("top_k is below 10, and the metrics are those at 10")
        if not self.fusion_weights or not all(0 <= w <= 1 for w in self.fusion_weights):
            problems.append("fusion_weights needs one or more numbers from 0 to 1")
        if not all(0 <= w < 1 for w in self.neighbour_weights):
            problems.append("neighbour_weights takes numbers from 0 to below 1")
        for name in ("neighbour_asymmetries", "look_alikes", "successors"):
            if not getattr(self, name) or not all(0 <= value <= 1 for value in getattr(self, name)):
                problems.append(f"{name} needs one or more numbers from 0 to 1")
        check(not problems, f"evaluate: {'; '.join(problems)}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where it runs."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda when there is one."""
    batch_size: int = 0
    """Users decoded together; lower it if memory does not suffice. 0: 64 on a CPU, 512 on a
    GPU. Scores depend on it in their last bits (of the order of 1e-6), as on the threads."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 0, f"batch_size={self.batch_size}: must be 0 (automatic) or more.")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is evaluated, and what the report tells about."""

    items: Artifact
    """The catalogue."""
    sequences: Artifact
    """Users' items in time order; the last one is predicted."""
    semantic_ids: Artifact
    """Codes of every item, those that the recommender was trained on."""
    latents: Artifact
    """The quantizer's codes before collisions were resolved."""
    quantizer: Artifact
    """The quantizer, for its learning curve."""
    recommender: Artifact
    """The trained recommender."""
    previous_semantic_ids: Source | None = None
    """Semantic IDs of an earlier run; the report says how these differ from them."""
    images: Source | None = None
    """Folder of pictures, for the examples of the report."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What comes out."""

    predictions: DatasetOutput
    """Every test user's lists, one row per user and system; slices.json beside them tells HR@10 and
    NDCG@10 of groups of users."""
    report: HtmlOutput
    """The run report, one self-contained page."""
    summary: MarkdownOutput
    """The report's tables."""


STAGE = Stage(
    name="evaluate",
    summary="Rank the catalogue for the test users, and report metrics.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
