"""Declares the settings, inputs and outputs of the stage evaluate."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from macrec.compute.device import Device
from macrec.compute.precision import Precision
from macrec.core.artifact import Artifact, DatasetOutput, HtmlOutput, MarkdownOutput, Source
from macrec.core.settings import COMMA_SEPARATED, Seed, Share, ShareBelowOne, settings_class
from macrec.core.stage import Pool, Stage
from macrec.data.sequences import SeenItems

Shares = Annotated[tuple[Share, ...], Field(min_length=1), COMMA_SEPARATED]
"""Candidate shares, at least one."""
SharesBelowOne = Annotated[tuple[ShareBelowOne, ...], COMMA_SEPARATED]
"""Candidate shares below 1, possibly none."""


@settings_class
class Settings:
    """Settings of the evaluation."""

    beams: PositiveInt = 20
    """Beams of each modality's search. The fused list is built from the items of both searches."""
    top_k: Annotated[int, Field(ge=10)] = 20
    """Items per list, at least 10. Metrics at larger cutoffs are left out."""
    fusion_weights: Shares = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Candidate weights (0 to 1) of the text score in the fused list. The one with the best NDCG@10
    on validation users is chosen. Unused in a run on text or images alone."""
    neighbour_weights: SharesBelowOne = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Candidate weights (0 to below 1) of the item neighbours in the hybrid list, chosen on
    validation users. Neighbours co-occur in training histories, and are candidates too. An empty
    tuple leaves out the neighbours and the hybrid list. Not part of the paper."""
    neighbour_asymmetries: Shares = (0.5, 0.7)
    """Candidate exponents (0 to 1) of the asymmetric cosine between item neighbours, chosen
    together with their weight. 0.5 is the usual cosine; larger values penalise popular neighbours
    less."""
    similar_item_shares: Shares = (0.0, 0.3)
    """Candidate shares (0 to 1) of the neighbour score that come from items with similar latents,
    chosen together with the neighbour weight. Similar items need not co-occur in any history."""
    successor_shares: Shares = (0.0, 0.2, 0.4)
    """Candidate shares (0 to 1) of the co-occurrence score that come from items which followed
    those of a history, chosen together with the neighbour weight. The rest comes from items nearby,
    before or after."""
    validation_users: NonNegativeInt = 2000
    """Number of users that the weights are chosen on, a random sample fixed by the seed. 0 means
    all."""
    single_modality_beams: NonNegativeInt = 40
    """Beams of the extra rows "text alone" and "image alone". 40 matches the two 20-beam searches
    of the fused list. 0 leaves the rows out."""
    seen_items: SeenItems = "auto"
    """Whether lists may contain items of the user's own history: keep, drop, or auto. auto drops
    them unless at least 5 % of the training interactions are repeats. Applies to all systems."""
    renormalise: bool = False
    """Compute scores as probabilities among the legal codes instead of among all tokens."""
    precision: Precision = "float32"
    """Precision of the model's matrix products. bfloat16 is faster on a GPU and on a CPU that
    supports it (AVX-512 BF16, AMX), and slower elsewhere. It changes scores in the third digit."""
    published_fusion: bool = False
    """Add a row fused by the rule of the published code, which ranks items found by both searches
    first."""
    reciprocal_fusion: bool = False
    """Add a row fused by reciprocal ranks of the same candidates: 1 / (k + rank by text) + 1 / (k +
    rank by image)."""
    reciprocal_constant: NonNegativeInt = 60
    """The constant k of reciprocal_fusion. The larger it is, the less the first ranks stand out."""
    examples: NonNegativeInt = 12
    """Number of test users shown in the report. Half of them have a hit in the first ten items,
    where there are enough."""
    seed: Seed = 0
    """Seed of the validation sample, the confidence intervals and the example users."""


@settings_class
class Execution:
    """Settings that affect only where and how fast the stage runs."""

    device: Device = "auto"
    """Device of the model: auto (a GPU if available, else the CPU), cpu or cuda."""
    batch_size: NonNegativeInt = 0
    """Users decoded together. 0 means 64 on a CPU and 512 on a GPU; lower it if memory runs out. It
    changes scores by about 1e-6, as the number of threads does."""
    threads: NonNegativeInt = 0
    """CPU threads. 0 leaves the number to PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data to evaluate, and the data that the report shows."""

    items: Artifact
    """The catalogue."""
    sequences: Artifact
    """The users' items in time order. The last item of each user is predicted."""
    semantic_ids: Artifact
    """Codes of every item; must be those that the recommender was trained on."""
    latents: Artifact
    """The quantizer's latents and codes before collisions were resolved."""
    quantizer: Artifact
    """The quantizer. The report shows its learning curve."""
    recommender: Artifact
    """The trained recommender."""
    image_embeddings: Artifact | None = None
    """The image vectors. The report shows how many pictures were found."""
    previous_semantic_ids: Source | None = None
    """Semantic IDs of an earlier run, for the report's comparison. Empty: no comparison."""
    images: Source | None = None
    """Folder of images for the examples in the report. Empty: no images are shown."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    predictions: DatasetOutput
    """Every test user's lists, one row per user and system. slices.json in the same folder contains
    HR@10 and NDCG@10 by group of users."""
    report: HtmlOutput
    """The run report as one self-contained HTML page."""
    summary: MarkdownOutput
    """The tables of the report in Markdown."""


STAGE = Stage(
    name="evaluate",
    summary="Rank the catalogue for the test users, and report metrics.",
    pool=Pool.GPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    everyday=("beams", "top_k", "neighbour_weights", "seen_items", "validation_users", "examples"),
)
