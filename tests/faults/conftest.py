"""A whole run of a tiny sample, and what the tests of pipelines share."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from macrec.artifact import Artifact
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
    return ["--config", SMOKE, *sample.flags, "--set", "image_max_bad_images=0.05"]


@pytest.fixture(scope="session")
def small_run(macrec: Any, sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("small-run")
    with pytest.MonkeyPatch.context() as patch:  # trained bytes depend on the number of threads
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")
        done = macrec("run", *smoke_flags(sample), "--out", out)
    assert done.code == 0, done.err
    return Run(out)
