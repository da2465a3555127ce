"""kill -9 at random moments of every stage, and of whole runs one after the other in one store."""

import random

import pytest

from pipelines.parameters import STAGES
from tests.faults.stage_runs import digests, readable

NOT_OF_A_RUN = "encode_items"


@pytest.mark.case(1)
@pytest.mark.parametrize("stage", [name for name in STAGES if name != NOT_OF_A_RUN])
def test_a_stage_killed_at_random_moments_ends_as_if_undisturbed(
    undisturbed, stage, tmp_path, sized, trials
):
    call, moments = undisturbed[stage], random.Random(f"kills of {stage}")
    wanted, artifacts = digests(call.folder), readable(call.folder)
    assert wanted
    killed = 0
    for number in range(sized(1, 15)):  # each begins anew, is killed again and again, and ends
        out, store = tmp_path / f"out{number}", tmp_path / f"store{number}"
        for _ in range(sized(2, 4)):
            killed += call.kill(out, store, moments.uniform(0.1, 1.0) * call.seconds)
            assert readable(out).items() <= artifacts.items()
        call.finish(out, store)
        assert digests(out) == wanted and readable(out) == artifacts
    assert killed > 0, "every process had ended before it was to be killed"
    trials(f"kills of {stage}", killed)
