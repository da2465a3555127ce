"""kill -9 at random moments of every stage, and of whole runs one after the other in one store."""

import random
import resource
import shutil

import pytest

from components.run_form import RECOMMENDER
from tests.faults.stage_runs import digests, readable


@pytest.mark.case(1)
@pytest.mark.parametrize("stage", ["check_run", *(s.name for s in RECOMMENDER.stages)])
def test_a_stage_killed_at_random_moments_ends_as_if_undisturbed(
    undisturbed, stage, tmp_path, sized, trials
):
    call, moments = undisturbed[stage], random.Random(f"kills of {stage}")
    wanted, artifacts = digests(call.folder), readable(call.folder)
    assert wanted
    killed, longest = 0, call.seconds
    for number in range(sized(1, 3)):  # each begins anew, is killed again and again, and ends
        out, store = tmp_path / f"out{number}", tmp_path / f"store{number}"
        for _ in range(sized(1, 4)):
            while not call.kill(out, store, moments.uniform(0.1, 1.0) * longest):
                longest *= 0.8  # it had ended; the machine is quicker than it was
                shutil.rmtree(out)
                shutil.rmtree(store, ignore_errors=True)
            killed += 1
            assert readable(out).items() <= artifacts.items()
        call.finish(out, store)
        assert digests(out) == wanted and readable(out) == artifacts
    trials(f"kills of {stage}", killed)


@pytest.mark.case(9)
def test_a_finished_stage_is_handed_over_at_once_and_not_touched(undisturbed, tmp_path, trials):
    """In processor time, start of Python included: about 1.5 s, more on cores that are shared."""
    stages = [name for name in undisturbed if name != "check_run"]
    for stage in stages:
        call, before = undisturbed[stage], digests(undisturbed[stage].store)
        for _ in range(2):  # into a new folder, and into that of the finished stage
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            told = call.finish(tmp_path / stage, call.store)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert ": reused, nothing to compute" in told
            assert after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime < 6
            assert digests(tmp_path / stage) == digests(call.folder)
        assert digests(call.store) == before
    trials("finished stages run again", 2 * len(stages))
