"""The contents of a run report, as frozen dataclasses that the evaluate stage fills.

Every text is shown as text, whatever it contains. A missing number is None. None, NaN and
infinities are shown as an en dash. Shares are between 0 and 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from macrec.report import numbers
from macrec.tokenizer.measures import LevelUsage, level_usage

Role = Literal["baseline", "text", "image", "fused", "other"]
"""Determines the colour; each modality has one colour throughout the report."""

Modality = Literal["text", "image"]

ProposedBy = Literal["text", "image", "both", "neighbours"]

METRICS = ("HR", "NDCG", "MRR")
CUTOFFS = (1, 5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A count or phrase about the data, such as `Fact(label="Users", value=2371)`."""

    label: str
    value: float | int | str | None
    note: str = ""
    """A few words under the value, e.g. "12.1 % of items"."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over test users, with its 95 % interval if one was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval; it has no width if all users have the same score."""
        return numbers.usable(self.low) and numbers.usable(self.high) and self.low != self.high


NO_SCORE = Score(value=None)


def score_of(scores: Mapping[str, Score], name: str) -> Score:
    """Return the score of that name, or a score without a value."""
    return scores.get(name, NO_SCORE)


@dataclass(frozen=True, kw_only=True)
class ExposureFigures:
    """Measures of the items in the first ten places of all users' lists together."""

    coverage: float | None = None
    """Share of the catalogue that is shown to at least one user."""
    gini: float | None = None
    """Gini coefficient of how often items are shown: 0 = evenly, near 1 = a few take all places."""
    novelty: float | None = None
    """Mean self-information of the shown items, in bits."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the results table."""

    name: str
    """E.g. "Most popular", "Text only", "Text only, 40 beams", "Fused"."""
    role: Role
    scores: Mapping[str, Score]
    """Scores by name, such as "HR@10", "NDCG@5", "MRR@20": any of METRICS x CUTOFFS. Missing scores
    are shown as dashes."""
    shown: ExposureFigures = ExposureFigures()

    def score(self, name: str) -> Score:
        """Return the score of that name, or a score without a value."""
        return score_of(self.scores, name)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of test users."""

    by: str
    """Grouping criterion: "popularity", "history", "text" or "image"."""
    name: str
    users: int
    scores: Mapping[str, Mapping[str, Score]]
    """Scores by name of the system, then by "HR@10" and "NDCG@10"."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart; points with a missing or non-finite y become gaps."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    role: Role = "other"

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), f"{self.name}: {len(self.x)} x, {len(self.y)} y"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line on a chart, such as the selected epoch or weight."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One line chart. Quantities of different magnitude belong in separate panels."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class CodebookLevel:
    """How often each code of one level was assigned."""

    modality: Modality
    level: int
    """Level from 0, the coarsest."""
    counts: tuple[int, ...]
    """Items per code, one entry per code of the codebook (zeros included), in any order."""

    @property
    def size(self) -> int:
        """Number of codes in the codebook."""
        return len(self.counts)

    @property
    def used(self) -> int:
        """Number of codes assigned to at least one item."""
        return sum(count > 0 for count in self.counts)

    @cached_property
    def usage(self) -> LevelUsage:
        """How evenly the codes are used; all zeros if no code is used."""
        codes_N = np.repeat(np.arange(self.size), self.counts)
        return level_usage(codes_N[:, None], self.size)[0]


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """Items that shared a code, before and after resolution."""

    modality: Modality
    rate_before: float | None
    """Collision rate, as defined by the stage that resolves collisions."""
    rate_after: float | None
    moved: int | None
    """Number of items that were given another code."""
    group_sizes: Mapping[int, int]
    """{items that share one code (2 or more): number of such groups}, before resolution."""
    moved_by_level: tuple[int, ...] = ()
    """Moved items by the first level that changed; a change at a later level is smaller."""
    displacement: float | None = None
    """Mean distance that the decoded vector of a moved item moved, divided by the mean distance of
    an item to its own codewords. A value below 1 is smaller than the quantization error."""


@dataclass(frozen=True, kw_only=True)
class IdChurn:
    """Item counts by what happened to their semantic ID since an earlier run."""

    modality: Modality
    kept: int
    moved: int
    """Items with a different ID than in the earlier run."""
    new: int
    """Items without an ID in the earlier run."""
    gone: int
    """Items without an ID in this run."""

    @property
    def share(self) -> float | None:
        """Share of moved items among the items of both runs."""
        both = self.kept + self.moved
        return self.moved / both if both else None


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Measures of the codes up to one level."""

    unexplained: float | None = None
    """Share of the vectors' variance that these codes do not explain."""
    recall: float | None = None
    """Share of an item's nearest neighbours that have the same codes."""
    candidates: float | None = None
    """Share of all items that have the same codes."""
    lift: Score = NO_SCORE
    """How much more often than by chance consecutive training items have the same codes. `low` and
    `high` are one standard error away."""
    validation_lift: Score = NO_SCORE
    """The same for the last training item and the validation item."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Measures of the codes of one modality."""

    modality: Modality
    prefixes: tuple[Prefix, ...]
    """One entry per prefix length, from the first code alone to all codes."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well the text codes of one level predict the image codes, from 0 to 1."""

    mutual: float | None
    """Normalised mutual information."""
    adjusted: float | None
    """The same, adjusted for chance."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A catalogue item as shown in the examples."""

    title: str
    thumbnail: str | None = None
    """`data:image/(png|jpeg|webp|gif);base64,...`; 96 px are enough. Other values are not shown."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One recommended item."""

    item: Item
    proposed_by: ProposedBy
    """The modality whose beam search found the item; "neighbours" if neither did."""
    hit: bool = False
    """Whether this is the item that the user chose next."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test user: their history, their recommendations and their next item."""

    user_id: str
    history: tuple[Item, ...]
    """Oldest first."""
    recommended: tuple[Recommendation, ...]
    """Best first."""
    target: Item | None = None
    """The held-out test item."""

    @property
    def items(self) -> tuple[Item, ...]:
        """Items of the history and of the recommendations."""
        return (*self.history, *(r.item for r in self.recommended))

    @property
    def hit_rank(self) -> int | None:
        """Rank of the test item from 1, or None if it is not recommended."""
        return next((rank for rank, r in enumerate(self.recommended, 1) if r.hit), None)


@dataclass(frozen=True, kw_only=True)
class ArtifactDigest:
    """One input of this run, with its digest for provenance."""

    name: str
    digest: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole report. An empty section is omitted or states in a sentence that it is empty."""

    title: str
    subtitle: str = ""
    """One line under the title: the data set, the run, and a date if the caller adds one."""
    facts: tuple[Fact, ...] = ()
    systems: tuple[System, ...] = ()
    """Systems in the order of the table. The headline compares the last "fused" system with the
    best "text" or "image" system and with the first "baseline". Without a "fused" system, the best
    "text" or "image" system takes its place."""
    users: int | None = None
    """Number of test users in the results table."""
    groups: tuple[Group, ...] = ()
    """Scores by group of users; all groups have the same systems."""
    quantizer_panels: tuple[Panel, ...] = ()
    """One panel per loss term, over epochs."""
    generator_panels: tuple[Panel, ...] = ()
    """Loss and validation NDCG, over steps or epochs."""
    codebooks: tuple[CodebookLevel, ...] = ()
    collisions: tuple[Collisions, ...] = ()
    churn: tuple[IdChurn, ...] = ()
    """Empty without an earlier run."""
    tokenizers: tuple[Tokenizer, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    """One entry per level; empty in a run on one modality."""
    fusion_panels: tuple[Panel, ...] = ()
    """Validation score by each fusion weight."""
    examples: tuple[Example, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Values by name, such as {"train.epochs": "40"}; the text before the first dot groups them."""
    artifacts: tuple[ArtifactDigest, ...] = ()
    stage_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds by stage, in the order of the DAG."""
    notes: tuple[str, ...] = ()
    """Important sentences, shown under the headline."""
