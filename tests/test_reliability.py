"""The journal of the fault tests: what an interrupted run of them need not do again."""

from types import SimpleNamespace

import pytest

from tests import reliability
from tests.reliability import Ended, Journal

TREE = {"size": "nightly", "commit": "abc", "clean": True}
ONE, TWO = Ended("a.py::one", [1], "passed", [["kills", 3]]), Ended("a.py::two", [2], "failed", [])


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Opens the journal as a run of some tree would."""

    def opened(resume=True, **tree):
        monkeypatch.setattr(reliability, "source", lambda config: {**TREE, **tree})
        config = SimpleNamespace(getoption=lambda name: resume)
        return Journal(tmp_path / "cases.json", config)

    return opened


def test_what_passed_is_taken_and_what_failed_is_run_again(journal):
    for ended in (ONE, TWO, Ended("a.py::three", [2], "skipped", [])):
        journal().add(ended)
    assert journal().read() == {ONE.test: ONE}
    journal().add(ONE._replace(outcome="failed"))  # the last time counts
    assert journal().read() == {}


@pytest.mark.parametrize("other", [{"commit": "abd"}, {"size": "ci"}, {"clean": False}])
def test_nothing_is_taken_from_another_tree_or_one_with_changes(journal, other):
    journal().add(ONE)
    assert journal(**other).read() == {}
    assert journal().read() == {ONE.test: ONE}


def test_a_tree_with_changes_takes_nothing_from_itself(journal):
    journal(clean=False).add(ONE)
    assert journal(clean=False).read() == {}


def test_a_run_that_does_not_resume_begins_anew(journal):
    journal().add(ONE)
    journal(resume=False)
    assert journal().read() == {}
