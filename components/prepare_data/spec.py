"""Declares the settings, inputs and outputs of the stage prepare_data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from macrec.core.artifact import DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.settings import COMMA_SEPARATED, settings_class
from macrec.core.stage import Pool, Stage

Column = Annotated[str, Field(min_length=1)]
"""Name of a column that must exist."""


@settings_class
class Settings:
    """Settings that determine the result."""

    item_id_column: Column = "item_id"
    """Catalogue column that contains the item id. Ids are text or integers, must be unique, and are
    kept exactly as given."""

    title_column: Column = "title"
    """Catalogue column that contains the title shown in the report."""

    text_columns: Annotated[tuple[Column, ...], Field(min_length=1), COMMA_SEPARATED] = (
        "title",
        "description",
    )
    """Catalogue columns that are joined, one per line, into the text to embed. Empty fields and "."
    are skipped. The default means title_column, plus description if the catalogue has it; any other
    column named here must exist."""

    image_column: str = "image"
    """Catalogue column that contains the image path below the image folder. The column may be
    absent only if this setting has its default value. Set "" if there are no images."""

    user_id_column: Column = "user_id"
    """Log column that contains the user id. Ids are text or integers and are kept exactly as
    given."""

    interaction_item_column: Column = "item_id"
    """Log column that contains the item id."""

    timestamp_column: str = "timestamp"
    """Log column that contains the time of the interaction: seconds or milliseconds since 1970, ISO
    8601 text, or a date type. Set "" if the rows of the log are already in time order."""

    min_interactions: NonNegativeInt = 5
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
        bad: list[str] = []
        in_log = ("user_id_column", "interaction_item_column", "timestamp_column")
        columns = [getattr(self, name) for name in in_log]
        if len(set(columns)) < len(columns):
            bad.append(f"{', '.join(in_log)} are {columns}, but each needs a column of its own")
        for name in ("title_column", "image_column"):
            if getattr(self, name) == self.item_id_column:
                bad.append(f"item_id_column and {name} are both {self.item_id_column!r}")
        check(not bad, f"{'; '.join(bad)}.")


@settings_class
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
    everyday=(
        "item_id_column",
        "title_column",
        "text_columns",
        "image_column",
        "user_id_column",
        "interaction_item_column",
        "timestamp_column",
        "min_interactions",
    ),
)
