"""Checks the whole input before anything is written, so that a bad run fails within seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.prepare_data import participation
from components.prepare_data.catalogue import Catalogue, read_catalogue
from components.prepare_data.findings import make_printable, pc
from components.prepare_data.interactions import (
    SHORTEST,
    Interactions,
    count_shared_times,
    in_time_order,
    k_core,
    starts_of_users,
    users_with_tie_at_split,
    without_duplicates,
)
from components.prepare_data.log import Log, read_log
from components.prepare_data.readers import TEXT
from components.prepare_data.spec import Settings
from components.prepare_data.time_checks import describe_range, describe_rounding
from macrec.core.errors import UserError


@dataclass(frozen=True)
class PreparedData:
    """The data to write: sorted interactions, the id of each user code, and the kept items."""

    log: Interactions
    user_ids: pa.LargeStringArray
    keep_item: np.ndarray


@dataclass
class ValidationReport:
    """The result of all checks. `prepared` is None if there are problems."""

    problems: list[str] = field(default_factory=list[str])
    """What makes prepare_data fail."""
    training_problems: list[str] = field(default_factory=list[str])
    """What makes train fail. The data can be prepared, for instance to encode new items."""
    warnings: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    """Every file that was read, with its rows, in the order of reading."""
    notes: list[str] = field(default_factory=list[str])
    """What was read otherwise: columns that are not used, the range of the times."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    prepared: PreparedData | None = None

    def lines(self) -> list[str]:
        """Return the report as lines to print; counts of zero are left out."""
        figures = [
            f"{name.replace('_', ' ')}: {value:,.{4 if value % 1 else 0}f}"
            for name, value in self.metrics.items()
            if value
        ]
        verdict = f"{len(self.problems)} problems" if self.problems else "no problems"
        if self.warnings:
            verdict += f", {len(self.warnings)} warning{'s' * (len(self.warnings) > 1)}"
        if self.training_problems:
            verdict += f", but train will fail for {len(self.training_problems)} reasons"
        return [
            *(f"file: {line}" for line in self.files),
            *self.notes,
            *figures,
            *(f"warning: {text}" for text in self.warnings),
            *(f"train will fail: {text}" for text in self.training_problems),
            *(f"problem: {text}" for text in self.problems),
            *([participation.describe(self.metrics)] if self.metrics else []),
            verdict,
        ]

    def checked(self, for_training: bool = False) -> PreparedData:
        """Return the data to write.

        Args:
            for_training: whether problems of the stage train are errors too.

        Raises:
            UserError: the input has problems; the message lists all of them.
        """
        problems = self.problems + (self.training_problems if for_training else [])
        if problems:
            raise UserError("\n".join(problems))
        assert self.prepared is not None
        return self.prepared


def validate(
    config: Settings, items_path: Path, interactions_path: Path, *, now: datetime | None = None
) -> ValidationReport:
    """Read and check the catalogue and the log.

    Args:
        config: the stage's settings.
        items_path: the catalogue, a file or a folder.
        interactions_path: the log, a file or a folder.
        now: the time from which the default of latest_time follows; None means the clock's.
    """
    report = ValidationReport()
    catalogue, log = None, None
    try:
        catalogue = read_catalogue(config, items_path)
        report.problems += catalogue.problems
        report.warnings += catalogue.warnings
        report.files += catalogue.files
        report.notes += [catalogue.unused] if catalogue.unused else []
    except UserError as error:
        report.problems.append(str(error))
    known = pc.unique(catalogue.ids.drop_null()) if catalogue else pa.array([], TEXT)
    try:
        log = read_log(config, interactions_path, known, now or datetime.now(UTC))
        report.problems += log.problems
        report.warnings += log.warnings
        report.files += log.files
        report.notes += [log.unused] if log.unused else []
    except UserError as error:
        report.problems.append(str(error))
    if catalogue and log and not report.problems:
        _filter(config, catalogue, log, make_printable(interactions_path.name), report)
    for texts in (report.problems, report.training_problems, report.warnings, report.notes):
        texts[:] = map(make_printable, texts)
    return report


def _filter(
    config: Settings, catalogue: Catalogue, log: Log, name: str, report: ValidationReport
) -> None:
    """Drop what the settings exclude, count it, and check that enough is left to train on."""
    items, users = len(catalogue.ids), len(log.user_ids)
    eligible = catalogue.has_image if config.missing_image == "drop" else np.ones(items, bool)
    # Reusing one name frees each step's copy; at 100 million rows a copy is 1.6 GB.
    rows, log.interactions = log.interactions, Interactions.empty()
    if log.is_rated_high is not None:
        rows = rows.take(log.is_rated_high)
    rated_high = len(rows.user)
    rows = rows.take(rows.item < items)
    known = len(rows.user)
    rows = rows.take(eligible[rows.item])
    pictured = len(rows.user)
    rows = in_time_order(rows)
    if log.has_rounded_times:
        shared = count_shared_times(rows)
        column = config.timestamp_column
        report.warnings.append(describe_rounding(name, column, shared, len(rows.user)))
    rows = without_duplicates(rows)
    distinct = len(rows.user)
    of_user = np.bincount(rows.user, minlength=users)
    too_short, longest = of_user < SHORTEST, int(of_user.max(initial=0))
    minimum = config.min_interactions if config.min_interactions > 1 else 0
    rows, stages = k_core(rows, users, items, minimum)
    often_enough = np.bincount(rows.item, minlength=items) >= minimum
    keep = eligible & often_enough
    report.prepared = PreparedData(rows, log.user_ids, keep)
    left = stages[-1]._replace(items=int(keep.sum()))
    report.metrics = {
        "items": left.items,
        "users": left.users,
        "interactions": left.interactions,
        "items_read": items,
        "users_read": users,
        "interactions_read": log.rows,
        "items_dropped_no_image": items - int(eligible.sum()),
        "items_dropped_rare": int(eligible.sum()) - left.items,
        "users_dropped": users - left.users,
        "users_too_short": int(too_short.sum()),
        "interactions_dropped_low_rating": log.rows - rated_high,
        "interactions_dropped_unknown_item": rated_high - known,
        "interactions_dropped_no_image": known - pictured,
        "interactions_dropped_duplicate": pictured - distinct,
        "interactions_dropped_rare": distinct - left.interactions,
        "kcore_rounds": len(stages) - 1,
        "density": left.interactions / max(left.users * left.items, 1),
        "mean_length": left.interactions / max(left.users, 1),
        "users_with_tie_at_split": users_with_tie_at_split(rows),
        "items_without_image": int((keep & ~catalogue.has_image).sum()),
        "items_without_text": int((keep & ~catalogue.has_text).sum()),
        "item_ids_look_alike": catalogue.look_alikes,
    }
    if rows.micros is not None and len(rows.micros):
        report.notes.append(f"{name}: times from {describe_range(rows.micros)}")
    too_little = participation.find_too_little(minimum, stages, report.metrics, longest)
    if too_little:
        report.problems.append(too_little)
        return
    _judge(config, name, np.diff(starts_of_users(rows)), report)


def _judge(config: Settings, name: str, lengths: np.ndarray, report: ValidationReport) -> None:
    """Find what training cannot learn, and users whose split the time does not decide."""
    minimum = config.min_interactions
    report.training_problems += participation.find_training_problems(name, lengths)
    report.warnings += participation.find_warnings(name, minimum, report.metrics, lengths)
    users, tied = report.metrics["users"], report.metrics["users_with_tie_at_split"]
    if tied:
        report.warnings.append(
            f"{tied:,.0f} of {users:,.0f} users have equal times at the split: the order of the "
            "log decides which item is held out."
        )
