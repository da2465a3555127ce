"""Checks the whole input before anything is written, so that a bad run fails within seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.prepare_data.catalogue import Catalogue, read_catalogue
from components.prepare_data.findings import pc
from components.prepare_data.interactions import (
    SHORTEST,
    Interactions,
    Round,
    in_time_order,
    k_core,
    users_with_tie_at_split,
    without_duplicates,
)
from components.prepare_data.log import Log, read_log
from components.prepare_data.readers import TEXT
from components.prepare_data.spec import Settings
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
    warnings: list[str] = field(default_factory=list[str])
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
        return [
            *figures,
            *(f"warning: {text}" for text in self.warnings),
            *(f"problem: {text}" for text in self.problems),
            verdict,
        ]

    def checked(self) -> PreparedData:
        """Return the data to write.

        Raises:
            UserError: the input has problems; the message lists all of them.
        """
        if self.problems:
            raise UserError("\n".join(self.problems))
        assert self.prepared is not None
        return self.prepared


def validate(config: Settings, items_path: Path, interactions_path: Path) -> ValidationReport:
    """Read and check the catalogue and the log.

    Args:
        config: the stage's settings.
        items_path: the catalogue, a file or a folder.
        interactions_path: the log, a file or a folder.
    """
    report = ValidationReport()
    catalogue, log = None, None
    try:
        catalogue = read_catalogue(config, items_path)
        report.problems += catalogue.problems
        report.warnings += catalogue.warnings
    except UserError as error:
        report.problems.append(str(error))
    known = pc.unique(catalogue.ids.drop_null()) if catalogue else pa.array([], TEXT)
    try:
        log = read_log(config, interactions_path, known)
        report.problems += log.problems
        report.warnings += log.warnings
    except UserError as error:
        report.problems.append(str(error))
    if catalogue and log and not report.problems:
        _judge(config, _filter(config, catalogue, log, report), report)
    return report


def _filter(
    config: Settings, catalogue: Catalogue, log: Log, report: ValidationReport
) -> list[Round]:
    """Drop what the settings exclude and count it; return the sizes after each k-core round."""
    items, users = len(catalogue.ids), len(log.user_ids)
    eligible = catalogue.has_image if config.missing_image == "drop" else np.ones(items, bool)
    # Reusing one name frees each step's copy; at 100 million rows a copy is 1.6 GB.
    rows, log.interactions = log.interactions, Interactions.empty()
    rows = rows.take(rows.item < items)
    known = len(rows.user)
    rows = rows.take(eligible[rows.item])
    pictured = len(rows.user)
    rows = without_duplicates(in_time_order(rows))
    distinct = len(rows.user)
    too_short = np.bincount(rows.user, minlength=users) < SHORTEST
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
        "interactions_dropped_unknown_item": log.unknown_rows,
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
    return stages


def _judge(config: Settings, stages: list[Round], report: ValidationReport) -> None:
    """Check that data is left, and warn of users whose split the time does not decide."""
    users, tied = report.metrics["users"], report.metrics["users_with_tie_at_split"]
    if users == 0 or report.metrics["items"] < 2:
        steps = ", then ".join(str(step) for step in stages)
        report.problems.append(
            f"Too little is left after the filters (min_interactions={config.min_interactions}, at "
            f"least {SHORTEST} interactions a user): {steps}. "
            f"{report.metrics['users_too_short']:,.0f} users had fewer than {SHORTEST}. "
            "Lower min_interactions or give a longer log."
        )
    elif tied:
        report.warnings.append(
            f"{tied:,.0f} of {users:,.0f} users have equal times at the split: the order of the "
            "log decides which item is held out."
        )
