"""Comparing runs: figures against scipy's and against what a planted difference must give."""

import numpy as np
import pytest
from scipy import stats

from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.metrics.significance import (
    UserScores,
    check_same_test,
    compare,
    read_scores,
    sign_flip_test,
)
from tests.artifacts import predictions


def scores(values, name="run", users=None, targets=None) -> UserScores:
    values = np.asarray(values, float)
    ids = np.array(users or [f"u{k}" for k in range(len(values))], object)
    targets_U = np.zeros(len(values), np.int64) if targets is None else np.array(targets)
    return UserScores(name, ids, targets_U, {"hr_10": values})


def test_scores_of_lists_by_hand_sorted_by_user_ties_at_their_expected_value(tmp_path):
    found = predictions(
        tmp_path / "p",
        [
            ("b", "text", 7, [3, 7], [-1.0, -2.0]),
            ("b", "fused", 7, [7], [-1.0]),
            ("a", "text", 5, [4, 5, 6], [-1.0, -1.5, -1.5]),
            ("a", "fused", 5, [], []),
        ],
    )
    text, fused = read_scores(found, "text"), read_scores(found, "fused")
    assert text.user_ids_U.tolist() == ["a", "b"] and text.targets_U.tolist() == [5, 7]
    assert text.values["mrr_10"].tolist() == pytest.approx([(1 / 2 + 1 / 3) / 2, 1 / 2])
    assert text.values["hr_1"].tolist() == [0, 0]
    assert fused.values["ndcg_20"].tolist() == [0, 1]


def test_metrics_beyond_the_length_of_the_lists_are_left_out(tmp_path):
    short = predictions(tmp_path / "p", [("a", "text", 5, [4, 5], [-1.0, -2.0])], top_k=10)
    assert [n for n in read_scores(short, "text").values if n.startswith("hr")] == [
        *("hr_1", "hr_5", "hr_10")
    ]
    long = predictions(tmp_path / "q", [("a", "text", 5, [4, 5], [-1.0, -2.0])])
    sides = [read_scores(long, "text")], [read_scores(short, "text")]
    found = compare(*sides, np.random.default_rng(0), draws=10)
    assert len(found) == 9 and {f.difference.mean for f in found} == {0.0}


def test_difference_interval_and_p_are_those_of_the_paired_t_test():
    generator = np.random.default_rng(1)
    a = generator.normal(0.3, 0.2, 500)
    b = a + generator.normal(0.02, 0.2, 500)
    (found,) = compare([scores(a)], [scores(b)], np.random.default_rng(0))
    reference = stats.ttest_rel(b, a)
    interval = reference.confidence_interval(0.95)
    assert found.metric == "hr_10"
    assert [*found.a, *found.b] == pytest.approx([a.mean(), b.mean()])
    assert found.difference.mean == pytest.approx(b.mean() - a.mean())
    assert found.difference.low == pytest.approx(interval.low, abs=0.001)
    assert found.difference.high == pytest.approx(interval.high, abs=0.001)
    assert found.p == pytest.approx(reference.pvalue, abs=0.01)
    (back,) = compare([scores(b)], [scores(a)], np.random.default_rng(0))
    assert back.difference.mean == -found.difference.mean
    assert back.p == pytest.approx(found.p, abs=0.01)


def test_p_by_hand_where_all_signs_can_be_listed():
    # of the 8 signs of (1, 1, 1) two give a sum as far from 0 as 3; (2, 1, 1): 2 of 8 give 4;
    # (1, -1, 0) sums to 0, which every sign reaches
    difference_UM = np.array([[1.0, 2.0, 1.0], [1.0, 1.0, -1.0], [1.0, 1.0, 0.0]])
    p_M = sign_flip_test(difference_UM, np.random.default_rng(0), draws=20_000)
    assert p_M == pytest.approx([0.25, 0.25, 1.0], abs=0.01)


def test_p_is_one_for_equal_runs_and_least_for_a_clear_difference():
    same = compare([scores([0, 1, 1])], [scores([0, 1, 1])], np.random.default_rng(0), draws=99)
    assert same[0].p == 1 and same[0].difference == (0, 0, 0)
    p_M = sign_flip_test(np.ones((60, 1)), np.random.default_rng(0), draws=99)
    assert p_M[0] == pytest.approx(1 / 100)


def test_p_is_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(3)
    difference_UM = generator.choice([-1.0, 0.0, 1.0], (300, 400), p=[0.1, 0.8, 0.1])
    p_M = sign_flip_test(difference_UM, generator, draws=500)
    assert (p_M <= 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert (p_M <= 0.5).mean() == pytest.approx(0.5, abs=0.08)


def test_several_runs_of_a_side_count_with_their_mean_per_user():
    a = [scores([0, 0, 1, 0]), scores([1, 0, 1, 0])]
    b = [scores([1, 0, 1, 1])]
    (found,) = compare(a, b, np.random.default_rng(0), draws=50)
    assert found.a == (0.25, 0.5) and found.b == (0.75,)
    assert found.difference.mean == pytest.approx((0.5 + 0 + 0 + 1) / 4)


def test_other_users_are_refused_with_their_number_and_names():
    first = scores([0] * 5, "first")
    other = scores([0] * 4, "other", users=["u0", "u1", "u2", "x"])
    with pytest.raises(UserError) as told:
        check_same_test([first, first, other])
    message = str(told.value)
    assert "2 of 5 test users of first are not in the other (first: u3, u4)" in message
    assert "1 of 4 test users of other are not in the other (first: x)" in message
    assert "same catalogue" in message


def test_other_targets_are_refused_with_their_number_and_names():
    first, other = scores([0] * 3, targets=[4, 5, 6]), scores([0] * 3, "b", targets=[4, 9, 9])
    with pytest.raises(UserError, match=r"2 of 3 test users .* in b than in run \(first: u1, u2\)"):
        compare([first], [other], np.random.default_rng(0))


def test_absent_systems_and_other_artifacts_are_refused(tmp_path):
    found = predictions(tmp_path / "p", [("a", "text", 5, [4], [-1.0])])
    with pytest.raises(UserError, match="no lists of 'fused'"):
        read_scores(found, "fused")
    manifest = {**found.manifest, "schema": None}
    with pytest.raises(UserError, match="not the predictions of a run"):
        read_scores(Artifact(found.path, manifest), "text")
