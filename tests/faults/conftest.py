"""A small run that nothing disturbs, what stages are killed with, and what pipelines share."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from macrec.core.artifact import Artifact
from tests.faults.stage_runs import StageCall, recorded
from tests.faults.toy import Toy
from tests.pipelines.conftest import SMOKE, Sample, macrec, sample

__all__ = ["macrec", "sample"]


class Run(NamedTuple):
    """The output folder of a run of the sample."""

    out: Path

    @property
    def artifacts(self) -> dict[str, Path]:
        """The folders of the artifacts, by name."""
        run = next((self.out / "runs").iterdir())
        return {p.parent.name: p.parent for p in sorted(run.rglob("manifest.json"))}

    @property
    def digests(self) -> dict[str, str]:
        """What each artifact holds."""
        return {n: Artifact.open(path).verify().digest for n, path in self.artifacts.items()}


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
def undisturbed(sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageCall]:
    """The stages of a small run that nothing has disturbed, in their order."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        calls = recorded(sample.flags, out, patch.setattr)
    return {call.stage: call for call in calls}


@pytest.fixture(scope="session")
def small_run(undisturbed: dict[str, StageCall]) -> Run:
    """The whole of that run."""
    return Run(next(iter(undisturbed.values())).store.parent)
