"""Declares the settings, inputs and outputs of the stage prepare_data."""

from dataclasses import dataclass
from typing import Literal

from macrec.core.artifact import DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that determine the result."""

    item_id_column: str = "item_id"
    """Catalogue column that contains the item id. Ids are text or integers, must be unique, and are
    kept exactly as given."""

    title_column: str = "title"
    """Catalogue column that contains the title shown in the report."""

    text_columns: tuple[str, ...] = ("title", "description")
    """Catalogue columns that are joined, one per line, into the text to embed. Empty fields and "."
    are skipped. The default means title_column, plus description if the catalogue has it; any other
    column named here must exist."""

    image_column: str = "image"
    """Catalogue column that contains the image path below the image folder. The column may be
    absent only if this setting has its default value. Set "" if there are no images."""

    user_id_column: str = "user_id"
    """Log column that contains the user id. Ids are text or integers and are kept exactly as
    given."""

    interaction_item_column: str = "item_id"
    """Log column that contains the item id."""

    timestamp_column: str = "timestamp"
    """Log column that contains the time of the interaction: seconds or milliseconds since 1970, ISO
    8601 text, or a date type. Set "" if the rows of the log are already in time order."""

    min_interactions: int = 5
    """Minimum number of interactions per user and per item. Users and items below it are dropped
    repeatedly until none is left (k-core). 0 or 1 keeps every item; users with fewer than 3
    interactions are always dropped."""

    unknown_items: Literal["fail", "drop"] = "fail"
    """Policy for interactions with items that the catalogue lacks. Up to 1 % of the rows are
    dropped with a warning under either value. Above 1 %, "fail" stops the run and "drop" drops the
    rows."""

    missing_image: Literal["keep", "drop", "fail"] = "keep"
    """Policy for items without an image path in the catalogue. "keep" keeps them, "drop" removes
    them and their interactions before the k-core, "fail" stops the run."""

    def __post_init__(self) -> None:
        for name in ("item_id_column", "title_column", "user_id_column", "interaction_item_column"):
            check(getattr(self, name) != "", f"{name} is empty. Name a column.")
        check(
            len(self.text_columns) > 0 and all(self.text_columns),
            f"text_columns is {self.text_columns!r}. Name at least one column, and none empty.",
        )
        check(
            self.min_interactions >= 0,
            f"min_interactions is {self.min_interactions}. Give 0 (off) or more.",
        )
        of_log = [self.user_id_column, self.interaction_item_column, self.timestamp_column]
        check(
            len(set(of_log)) == len(of_log),
            f"The columns of the log are {of_log}: each needs a column of its own.",
        )
        check(
            self.item_id_column not in (self.title_column, self.image_column),
            f"item_id_column {self.item_id_column!r} is also the title or image column.",
        )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings that affect only the speed; there are none, as batches have a fixed size."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that the stage reads."""

    catalog: Source
    """The catalogue: CSV, JSON lines or Parquet; one file or a folder of files."""

    interactions: Source
    """The log of clicks or purchases, in any of the same formats."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    items: DatasetOutput
    """The items that remain after filtering, in catalogue order."""

    sequences: DatasetOutput
    """One row per user with their items in time order. Users are in the order of their first
    interaction in the log."""


STAGE = Stage(
    name="prepare_data",
    summary="Validate the catalogue and the interaction log, and write items and sequences.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
