"""Who takes part after the filters, and what is found before anything is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.prepare_data.participation import LEARNABLE
from components.prepare_data.spec import Settings
from components.prepare_data.validation import ValidationReport, validate
from components.train.rows import training_rows
from macrec.core.errors import UserError
from macrec.data.sequences import Sequences

ITEMS = [f"i{k}" for k in range(8)]


def validate_lengths(folder: Path, lengths: list[int], **settings: Any) -> ValidationReport:
    """Validate a log whose users have histories of these lengths."""
    pq.write_table(pa.table({"item_id": ITEMS, "title": ITEMS}), folder / "items.parquet")
    rows = [
        (f"u{user}", ITEMS[(user + k) % len(ITEMS)], 1_500_000_000 + 7 * k)
        for user, length in enumerate(lengths)
        for k in range(length)
    ]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({n: list(c) for n, c in columns.items()}), folder / "log.parquet")
    config = Settings(image_column="", **settings)
    return validate(config, folder / "items.parquet", folder / "log.parquet")


def test_the_report_ends_with_who_takes_part(tmp_path):
    report = validate_lengths(tmp_path, [8] * 40 + [2] * 9 + [4])
    who, verdict = report.lines()[-2:]
    assert "40 of 50 users, 8 of 8 items and 320 of 342 interactions take part" in who
    assert "10 users get no list" in who and "item" not in who.partition(";")[2]
    assert verdict.startswith("no problems")
    assert report.training_problems == []


def test_the_report_names_items_that_take_no_part_and_does_not_if_all_do(tmp_path):
    rare = validate_lengths(tmp_path, [5, 6, 6], min_interactions=3)
    assert "3 of 3 users, 3 of 8 items" in rare.lines()[-2]
    assert "every user gets a list, 5 items are never recommended" in rare.lines()[-2]
    (warning,) = [text for text in rare.warnings if "5 of 8 items" in text]
    assert "log.parquet" in warning and "fewer than 3 interactions" in warning
    assert "prepare_data.min_interactions=0" in warning
    everyone = validate_lengths(tmp_path, [8] * 5)
    assert everyone.lines()[-2].endswith("take part; every user gets a list")


@pytest.mark.case(28)
def test_most_users_below_the_minimum_are_counted_with_what_a_lower_one_would_keep(tmp_path):
    report = validate_lengths(tmp_path, [4] * 20 + [2] * 50 + [8] * 30)
    (warning,) = [text for text in report.warnings if "take no part" in text]
    for part in ("log.parquet: 70 of 100 users", "fewer than 5 interactions", "50 of them have"):
        assert part in warning
    assert "prepare_data.min_interactions=0, 50 users would take part" in warning
    assert (
        validate_lengths(tmp_path, [4] * 20 + [2] * 50 + [8] * 30, min_interactions=0).metrics[
            "users"
        ]
        == 50
    )


def test_no_lower_minimum_is_suggested_where_it_keeps_nobody_more(tmp_path):
    report = validate_lengths(tmp_path, [2] * 70 + [8] * 30)
    (warning,) = [text for text in report.warnings if "take no part" in text]
    assert "70 of them have fewer than 3" in warning and "min_interactions" not in warning


def test_few_users_below_the_minimum_are_no_warning(tmp_path):
    report = validate_lengths(tmp_path, [8] * 100 + [2] * 9)
    assert report.warnings == []


@pytest.mark.case(28)
@pytest.mark.parametrize("minimum", [0, 3])
def test_histories_of_three_can_be_prepared_but_not_trained_on(tmp_path, minimum):
    report = validate_lengths(tmp_path, [3] * 40, min_interactions=minimum)
    assert report.problems == [] and report.checked()
    (problem,) = report.training_problems
    for part in ("log.parquet", "all 40 users have 3 interactions", "train", "at least 4"):
        assert part in problem
    assert any(line.startswith("train will fail: ") for line in report.lines())
    assert "40 of 40 users" in report.lines()[-2] and "train will fail" in report.lines()[-1]
    with pytest.raises(UserError, match="all 40 users have 3"):
        report.checked(for_training=True)


@pytest.mark.parametrize(("length", "rows"), [(3, 0), (4, 1)])
def test_four_interactions_are_the_fewest_that_train_learns_from(length, rows):
    sequences = Sequences(np.arange(length, dtype=np.int32), np.array([0, length]))
    first, _ = training_rows(sequences, max_history=20, augment=True)
    assert len(first) == rows and (length >= LEARNABLE) == bool(rows)


def test_one_longer_history_can_be_trained_on_but_is_warned_of(tmp_path):
    report = validate_lengths(tmp_path, [3] * 39 + [4], min_interactions=0)
    assert report.training_problems == [] and report.checked(for_training=True)
    (warning,) = [text for text in report.warnings if "39 of 40 users have 3" in text]
    assert "prepare_data.min_interactions=4" in warning and "other 1 users" in warning


@pytest.mark.case(28)
@pytest.mark.parametrize("minimum", [0, 5])
def test_one_user_with_two_interactions_needs_a_longer_log_not_another_setting(tmp_path, minimum):
    (problem,) = validate_lengths(tmp_path, [2], min_interactions=minimum).problems
    assert "1 users had fewer than 3" in problem and "most active user has 2" in problem
    assert "at least 4" in problem and "Lower min_interactions" not in problem


@pytest.mark.case(28)
def test_a_lower_minimum_is_suggested_where_it_works(tmp_path):
    (problem,) = validate_lengths(tmp_path, [6] * 9, min_interactions=7).problems
    assert "most active user has 6" in problem and "Lower min_interactions" in problem
    assert validate_lengths(tmp_path, [6] * 9, min_interactions=5).problems == []


def test_few_test_users_are_warned_of(tmp_path):
    report = validate_lengths(tmp_path, [8] * 99)
    (warning,) = report.warnings
    assert "99 users take part" in warning and "at least 100" in warning
    assert validate_lengths(tmp_path, [8] * 100).warnings == []
