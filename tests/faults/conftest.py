"""A small run that nothing disturbs, what stages are killed with, and what pipelines share."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.stage_runs import StageCall
from tests.faults.toy import Toy
from tests.pipelines.conftest import SMOKE, Sample, SmallRun, macrec, sample, small_run

__all__ = ["macrec", "sample", "small_run"]


def smoke_flags(sample: Sample) -> list[Any]:
    """A run's flags, but for its output folder; 1 of the 60 pictures is broken."""
    return ["--config", SMOKE, *sample.flags, "--set", "embed_image.max_bad_images=0.05"]


@pytest.fixture(autouse=True)
def own_temporary_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`macrec gc` clears such folders, and those of other tests are not to be cleared."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    stage = Toy(tmp_path)
    stage.write()
    return stage


@pytest.fixture(scope="session")
def undisturbed(small_run: SmallRun) -> dict[str, StageCall]:
    """The stages of a small run that nothing has disturbed, in their order."""
    return small_run.calls
