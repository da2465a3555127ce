"""What a run report says, as plain frozen dataclasses; the evaluate stage fills them.

Every text is shown as text, whatever it contains. A number that does not exist is None; NaN and
infinities are shown the same way, as an en dash. Nothing here reads a clock or a file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["baseline", "text", "image", "fused", "other"]
"""Decides the colour: one colour per modality throughout the report."""

ProposedBy = Literal["text", "image", "both", "neighbours"]

METRICS = ("HR", "NDCG", "MRR")
CUTOFFS = (1, 5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One count or phrase about the data, such as `Fact(label="Users", value=2371)`."""

    label: str
    value: float | int | str | None
    note: str = ""
    """A few words under the value, e.g. "12.1 % of items"."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over test users, with its 95 % interval where one was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the first ten places of all users' lists hold together."""

    coverage: float | None
    """Share of the catalogue that somebody is shown, 0..1."""
    gini: float | None
    """How unevenly the items of the catalogue are shown: 0 = evenly, near 1 = a few take all."""
    novelty: float | None
    """Mean self-information of what is shown, in bits."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the results table."""

    name: str
    """E.g. "Most popular", "Text only", "Text only, 40 beams", "Fused"."""
    role: Role
    scores: Mapping[str, Score]
    """By name: "HR@10", "NDCG@5", "MRR@20"; any of METRICS x CUTOFFS, absent ones are dashes."""
    shown: Shown | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """A part of the test users."""

    by: str
    """What they are grouped by: "popularity", "history", "text" or "image"."""
    name: str
    users: int
    scores: Mapping[str, Mapping[str, Score]]
    """By name of the system, then "HR@10" and "NDCG@10"."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart; points with a missing or non-finite y are gaps."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    role: Role = "other"

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), f"{self.name}: {len(self.x)} x, {len(self.y)} y"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line on a chart, such as the epoch or the weight that was chosen."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One line chart. Quantities of different size belong in panels of their own."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class CodebookLevel:
    """How often each code of one level was assigned."""

    modality: Literal["text", "image"]
    level: int
    """From 0, the coarsest."""
    counts: tuple[int, ...]
    """Items per code, one entry for every code of the codebook (zeros included), any order."""

    @property
    def size(self) -> int:
        """Codes in the codebook."""
        return len(self.counts)

    @property
    def used(self) -> int:
        """Codes assigned to one item or more."""
        return sum(count > 0 for count in self.counts)

    @property
    def utilisation(self) -> float | None:
        """Share of the codes in use, 0..1."""
        return self.used / self.size if self.size else None

    @property
    def perplexity(self) -> float | None:
        """exp of the entropy of the usage: the number of evenly used codes it is worth."""
        total = sum(self.counts)
        if not total:
            return None
        shares = [count / total for count in self.counts if count > 0]
        return math.exp(-sum(share * math.log(share) for share in shares))

    @property
    def gini(self) -> float | None:
        """Gini coefficient of the items per code: 0 = even, near 1 = one code holds them all."""
        total = sum(self.counts)
        if not total:
            return None
        ranked = enumerate(sorted(self.counts), 1)
        return sum((2 * rank - self.size - 1) * n for rank, n in ranked) / (self.size * total)

    @property
    def largest_share(self) -> float | None:
        """Share of the items that carry the most used code, 0..1."""
        total = sum(self.counts)
        return max(self.counts) / total if total else None


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """Items that shared a code, before and after resolution."""

    modality: Literal["text", "image"]
    rate_before: float | None
    """0..1, as the stage that resolves collisions defines it."""
    rate_after: float | None
    moved: int | None
    """Items given another code."""
    group_sizes: Mapping[int, int]
    """{items sharing one code (2 or more): number of such groups}, before resolution."""
    moved_by_level: tuple[int, ...] = ()
    """Moved items by the first level that changed; a later level is a smaller change."""
    displacement: float | None = None
    """Mean distance that the decoded vector of a moved item went, over the mean distance of an
    item to its own codewords: below 1 is less than what the codes get wrong anyway."""


@dataclass(frozen=True, kw_only=True)
class IdChurn:
    """Items by what became of their semantic ID since an earlier run."""

    modality: Literal["text", "image"]
    kept: int
    moved: int
    """Items with another ID than then."""
    new: int
    """Items without an ID then."""
    gone: int
    """Items without an ID now."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What the codes up to one level say about an item."""

    unexplained: float | None = None
    """Share of the vectors' variance that these codes leave, 0..1."""
    recall: float | None = None
    """Share of an item's nearest neighbours that have the same codes, 0..1."""
    candidates: float | None = None
    """Share of all items that have the same codes, 0..1."""
    lift: Score = Score(value=None)
    """How much more often than by chance consecutive training items have the same codes; low and
    high are one standard error away."""
    validation_lift: Score = Score(value=None)
    """The same of the last training item and the validation item."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The codes of one modality, measured."""

    modality: Literal["text", "image"]
    prefixes: tuple[Prefix, ...]
    """From the first code alone to all codes."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the text codes of one level tell the image codes, 0..1."""

    mutual: float | None
    """Normalised mutual information."""
    adjusted: float | None
    """The same less what chance gives."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A catalogue item as the examples show it."""

    title: str
    thumbnail: str | None = None
    """`data:image/(png|jpeg|webp|gif);base64,...`, 96 px is plenty; anything else is not shown."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One recommended item, in rank order."""

    item: Item
    proposed_by: ProposedBy
    """Whose beam held the item; neighbours if none did."""
    hit: bool = False
    """Whether it is the item that the user chose next."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test user: what they had, what they were offered, what they took."""

    user_id: str
    history: tuple[Item, ...]
    """Oldest first."""
    recommended: tuple[Recommendation, ...]
    """Best first."""
    target: Item | None = None
    """The item held out for the test."""


@dataclass(frozen=True, kw_only=True)
class ArtifactDigest:
    """One input of this run, so that the report can be traced to its bytes."""

    name: str
    digest: str
    rows: int | None = None


def _no_texts() -> Mapping[str, str]:
    return {}


def _no_seconds() -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole report. Sections left empty say so in a sentence, or are left out."""

    title: str
    subtitle: str = ""
    """One line under the title: the data set, the run, a date that the caller chose to print."""
    facts: tuple[Fact, ...] = ()
    systems: tuple[System, ...] = ()
    """In the order of the table. The headline compares the last "fused" one with the best of the
    "text" and "image" ones, which takes its place in a run without, and the first "baseline"."""
    users: int | None = None
    """Test users behind the results table."""
    groups: tuple[Group, ...] = ()
    """Scores by group of users; all of the same systems."""
    quantizer_panels: tuple[Panel, ...] = ()
    """One per loss term, over epochs."""
    generator_panels: tuple[Panel, ...] = ()
    """Loss and validation NDCG, over steps or epochs."""
    codebooks: tuple[CodebookLevel, ...] = ()
    collisions: tuple[Collisions, ...] = ()
    churn: tuple[IdChurn, ...] = ()
    """Empty without an earlier run."""
    tokenizers: tuple[Tokenizer, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    """Level by level; empty in a run on one modality."""
    fusion_panels: tuple[Panel, ...] = ()
    """Validation score over each weight of the fusion."""
    examples: tuple[Example, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=_no_texts)
    """{"train.epochs": "40"}; text before the first dot groups them."""
    artifacts: tuple[ArtifactDigest, ...] = ()
    stage_seconds: Mapping[str, float] = field(default_factory=_no_seconds)
    """In the order of the DAG."""
    notes: tuple[str, ...] = ()
    """Sentences the reader must know, shown under the headline."""
