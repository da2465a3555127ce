"""Stages that are killed: a toy, and every stage of a small run."""

from pathlib import Path

import pytest

from tests.faults.stage_runs import StageCall, recorded
from tests.faults.toy import Toy
from tests.pipelines.conftest import sample

__all__ = ["sample"]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    stage = Toy(tmp_path)
    stage.write()
    return stage


@pytest.fixture(scope="session")
def undisturbed(sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageCall]:
    """The stages of a small run that nothing has disturbed, in their order."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        calls = recorded(sample.flags, out, patch.setattr)
    return {call.stage: call for call in calls}
