"""What the stage prepare_data is: its settings, inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

from macrec.core.artifact import DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the result."""

    item_id_column: str = "item_id"
    """Column of the catalogue with the item's id: text or integer, unique, kept exactly."""

    title_column: str = "title"
    """Column of the catalogue with the title shown in the report."""

    text_columns: tuple[str, ...] = ("title", "description")
    """Columns of the catalogue that make up the text to embed, a line each; fields that are empty
    or "." are left out. The default stands for the title column, and description if there is one;
    any other column named here must exist."""

    image_column: str = "image"
    """Column of the catalogue with the picture's path below the image folder; it may be absent
    only under this default. "" if there are no pictures."""

    user_id_column: str = "user_id"
    """Column of the log with the user's id: text or integer, kept exactly."""

    interaction_item_column: str = "item_id"
    """Column of the log with the item's id."""

    timestamp_column: str = "timestamp"
    """Column of the log with the time: seconds or milliseconds since 1970, ISO 8601 text, or a
    date type. "" if the order of the log's rows is the order in time."""

    min_interactions: int = 5
    """Users and items with fewer interactions are dropped, over and over until none is left (the
    k-core). 0 or 1 keeps every item. Users with fewer than 3 are always dropped."""

    unknown_items: Literal["fail", "drop"] = "fail"
    """What to do with interactions of items absent from the catalogue: up to 1 % of the rows are
    left out with a warning; above that, fail or drop them."""

    missing_image: Literal["keep", "drop", "fail"] = "keep"
    """What to do with items for which the catalogue names no picture. They are dropped, with their
    interactions, before the k-core."""

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
    """Nothing to set: the stage streams in batches of a fixed size."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    catalog: Source
    """The catalogue: CSV, JSON lines or Parquet, a file or a folder of files."""

    interactions: Source
    """The log of clicks or purchases, in the same formats."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    items: DatasetOutput
    """The items that stay, in the order of the catalogue."""

    sequences: DatasetOutput
    """One row a user, in the order of their first appearance in the log."""


STAGE = Stage(
    name="prepare_data",
    summary="Validate the catalogue and the interaction log, and write items and sequences.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
