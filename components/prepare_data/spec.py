"""Declares the settings, inputs and outputs of the stage prepare_data."""

import re
import string
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, NonNegativeInt
from pydantic_core import PydanticCustomError

from components.prepare_data.moments import parse_limit
from macrec.core.artifact import DatasetOutput, Source
from macrec.core.errors import check
from macrec.core.settings import COMMA_SEPARATED, settings_class
from macrec.core.stage import Pool, Stage

Column = Annotated[str, Field(min_length=1)]
"""Name of a column that must exist."""


def _read_tab(value: object) -> object:
    return "\t" if value in ("\\t", "tab") else value


def _check_encoding(name: str) -> str:
    try:
        if name:
            "".encode(name)
    except LookupError as error:
        raise PydanticCustomError("encoding", "should be an encoding such as cp1252") from error
    return name


def template_parts(template: str) -> list[tuple[str, str, int | None]]:
    """Return the parts of a path template: literal text, a column, and its number of characters.

    The column is empty for a final literal text. None stands for all characters.

    Raises:
        ValueError: it is not a template.
    """
    parts: list[tuple[str, str, int | None]] = []
    for literal, column, width, conversion in string.Formatter().parse(template):
        if conversion or not re.fullmatch(r"(\.\d{1,4})?", width or "") or column == "":
            raise ValueError(template)
        parts.append((literal, column or "", int(width[1:]) if width else None))
    return parts


def _check_template(template: str) -> str:
    try:
        parts = template_parts(template)
        if template and not any(column for _, column, _ in parts):
            raise ValueError(template)
    except ValueError as error:
        raise PydanticCustomError("template", "should be such as {item_id}.jpg") from error
    return template


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise PydanticCustomError("pattern", "should be a regular expression") from error
    return pattern


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

    image_path: Annotated[str, AfterValidator(_check_template)] = ""
    """Template of the image path for catalogues without an image column: {COLUMN} stands for the
    text of a column, {COLUMN:.3} for its first three characters. An example is
    {article_id:.3}/{article_id}.jpg. "" means that image_column contains the path."""

    user_id_column: Column = "user_id"
    """Log column that contains the user id. Ids are text or integers and are kept exactly as
    given."""

    interaction_item_column: Column = "item_id"
    """Log column that contains the item id."""

    timestamp_column: str = "timestamp"
    """Log column that contains the time of the interaction: seconds or milliseconds since 1970, ISO
    8601 text, numbers such as 20240131, or a date type. Times without a zone are UTC. Set "" if the
    rows of the log are already in time order."""

    latest_time: str = ""
    """Latest plausible time of an interaction, an ISO 8601 date or time. A date includes its whole
    day. The run stops if the log contains a later time, because that would become the item that its
    user is tested on. "" means one day after the start of the run."""

    timestamp_format: str = ""
    """Format of times that are text but not ISO 8601, such as %m/%d/%Y %I:%M:%S %p. "" means
    numbers, dates or ISO 8601."""

    delimiter: Annotated[str, BeforeValidator(_read_tab)] = ""
    """Delimiter of the cells of text files, such as ; or | or :: or \\t. "" means that the header
    line of each file decides."""

    quote_character: Annotated[str, Field(max_length=1)] = '"'
    """Character around cells that contain a delimiter or a line break. Set "" if cells are never
    quoted."""

    encoding: Annotated[str, AfterValidator(_check_encoding)] = ""
    """Encoding of text that is not UTF-8, such as cp1252 or utf-16-le. Text in UTF-8 and files with
    a byte order mark are read as they are. "" means that all text is UTF-8."""

    catalog_columns: Annotated[tuple[Column, ...], COMMA_SEPARATED] = ()
    """Names of the columns of catalogue files without a header line. Empty means that the first
    line is the header."""

    log_columns: Annotated[tuple[Column, ...], COMMA_SEPARATED] = ()
    """Names of the columns of log files without a header line. Empty means that the first line is
    the header."""

    item_pattern: Annotated[str, AfterValidator(_check_pattern)] = ""
    """Regular expression that finds the item ids in a cell of interaction_item_column, for logs
    with several items per row. Each match is one interaction; its first group, if there is one, is
    the id. "" means that the cell is the id."""

    rating_column: Column = "rating"
    """Log column that contains the rating. It is read only if min_rating is above 0."""

    min_rating: NonNegativeFloat = 0.0
    """Smallest rating that counts as an interaction. Rows with a smaller rating, or with none, are
    dropped. 0 means that every row counts as positive, whatever its rating."""

    keep_markup: bool = False
    """Whether HTML stays in the title and in the text. If not, tags are removed and entities such
    as &amp; are decoded."""

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
        if self.latest_time and parse_limit(self.latest_time) is None:
            bad.append(
                f"latest_time is {self.latest_time!r}, but should be an ISO 8601 date or time such "
                "as 2024-12-31"
            )
        check(not bad, f"{'; '.join(bad)}.")


@settings_class
class Execution:
    """Settings that affect only the speed; there are none, as batches have a fixed size."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that the stage reads."""

    catalog: Source
    """The catalogue: delimited text, JSON lines or Parquet, compressed or not; one file
    or a folder of files."""

    interactions: Source
    """The log of clicks or purchases, in any of these formats."""


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
